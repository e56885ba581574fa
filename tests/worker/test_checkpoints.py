"""Drawings that go on where another worker was: killed, stopped, and with latents of all kinds."""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.tidy import clean_up
from shared.artifact_names import latents_name
from shared.clock import SystemClock
from shared.embedded.database import Database
from shared.embedded.worker_store import SqliteWorkerStore
from shared.errors import ArtifactStoreUnavailable
from shared.jobs import Job, Terms, announce, claim, delete, renew
from shared.scenes import Scene
from shared.vocabulary import Checkpoint, ErrorCode, Latents, Phase, Status
from tests.builders import a_checkpoint, a_scene, sha
from tests.fakes import FakePipeline, Gate, saved_latents
from tests.worker.conftest import PACE, Surroundings, value
from worker.drawing import Drawing, Drawn
from worker.run_job import run_job

EVERY_STEP = replace(PACE, save_steps=1, progress=0.0)
ONLY_AT_THE_END = replace(PACE, save_seconds=3600.0)
NEVER = PACE
PATIENT = Terms(lease=timedelta(seconds=20), failures=10)


class Killed(BaseException):
    """The worker is gone: nothing of it commits anything."""


def until(true: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came true")


def checkpoint_of(around: Surroundings, job: Job) -> Checkpoint | None:
    return around.jobs.get(job.id).checkpoint


def saved_step(around: Surroundings, job: Job) -> int:
    checkpoint = checkpoint_of(around, job)
    return checkpoint.step if checkpoint else 0


def vanish(job: Job, now: datetime) -> Job:
    assert job.lease is not None
    return replace(job, lease=replace(job.lease, expires_at=now - timedelta(minutes=1)))


def claimed_again(around: Surroundings, job: Job, holder: str = "w2") -> Job:
    """The job as the next worker has it, whether the last one vanished or gave it back."""
    if around.jobs.get(job.id).status is Status.RUNNING:
        around.jobs.update(job.id, vanish)
    return around.jobs.update(job.id, partial(claim, holder=holder, terms=PATIENT))


def files(around: Surroundings, tmp_path: Path) -> list[str]:
    """The names of all artifacts that there are."""
    records = (tmp_path / "artifacts").rglob("*.meta")
    return sorted(str(json.loads(record.read_text())["name"]) for record in records)


def latents(around: Surroundings, tmp_path: Path) -> list[str]:
    return [name for name in files(around, tmp_path) if "latents" in name]


def killing_at(around: Surroundings, job: Job, step: int, *, saved: int) -> FakePipeline:
    """A pipeline whose worker dies in this step, once this checkpoint has arrived."""

    def at_step(scene: Scene, now_at: int) -> None:
        if now_at == step:
            until(lambda: saved_step(around, job) == saved)
            raise Killed

    return FakePipeline(at_step=at_step)


def killed_at(around: Surroundings, job: Job, step: int, *, saved: int, **what: Any) -> int:
    """Draw with a worker that dies in a step; tells how many steps it had computed."""
    pipeline = killing_at(around, job, step, saved=saved)
    at = around.workplace(pipeline=pipeline, **{"pace": EVERY_STEP, "terms": PATIENT} | what)
    with pytest.raises(Killed):
        run_job(job, at)
    return pipeline.steps


# --- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 3, 4])
def test_another_worker_goes_on_after_the_step_that_was_saved_last(
    around: Surroundings, step: int
) -> None:
    job = around.claimed()
    computed = killed_at(around, job, step, saved=step - 1)
    pipeline = FakePipeline()
    done = run_job(claimed_again(around, job), around.workplace(holder="w2", pipeline=pipeline))
    assert done is not None
    assert (done.status, done.attempt, done.checkpoint) == (Status.SUCCEEDED, 2, None)
    assert pipeline.began_at == [step - 1]
    assert computed + pipeline.steps == job.scene.steps, "no step was computed twice"
    assert (done.metrics.resumed_at, done.metrics.steps) == (step - 1, 4 - step + 1)


def test_a_kill_costs_no_more_than_the_steps_between_two_checkpoints(
    around: Surroundings,
) -> None:
    job = around.claimed(scene=a_scene(steps=15, count=2))
    between, kills, computed = 4, [(7, 4), (12, 8), (28, 24)], 0
    pace = replace(EVERY_STEP, save_steps=between)
    for number, (step, saved) in enumerate(kills):
        computed += killed_at(around, job, step, saved=saved, pace=pace, holder=f"w{number}")
        job = claimed_again(around, job, f"w{number + 1}")
    last = FakePipeline()
    done = run_job(job, around.workplace(holder="w3", pipeline=last, terms=PATIENT))
    assert done is not None
    assert (done.status, len(done.images)) == (Status.SUCCEEDED, 2)
    assert last.began_at == [24]
    assert 30 < computed + last.steps <= 30 + between * len(kills)


def test_before_the_first_checkpoint_a_drawing_begins_at_the_start(around: Surroundings) -> None:
    job = around.claimed()
    killed_at(around, job, 3, saved=0, pace=ONLY_AT_THE_END)
    pipeline = FakePipeline()
    assert run_job(claimed_again(around, job), around.workplace(holder="w2", pipeline=pipeline))
    assert pipeline.began_at == [0]


def test_a_checkpoint_is_told_soon_also_when_a_step_takes_long(around: Surroundings) -> None:
    job, slow = around.claimed(), SlowShelf(around)

    def at_step(scene: Scene, step: int) -> None:
        if step == 2:
            until(lambda: (told := around.jobs.get(job.id).progress) and told.step == 1)
            slow.opened.set()
            until(lambda: saved_step(around, job) == 1)

    at = around.workplace(
        pipeline=FakePipeline(at_step=at_step), artifacts=slow,
        pace=replace(EVERY_STEP, heartbeat=600.0),
    )  # fmt: skip
    done = run_job(job, at)
    assert done is not None
    assert done.status is Status.SUCCEEDED


# --- stopped ------------------------------------------------------------------------------------


def stopping_at(step: int) -> tuple[threading.Event, FakePipeline]:
    stopping = threading.Event()

    def at_step(scene: Scene, now_at: int) -> None:
        if now_at == step:
            stopping.set()

    return stopping, FakePipeline(at_step=at_step)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_worker_that_must_stop_saves_the_very_step(around: Surroundings, step: int) -> None:
    stopping, pipeline = stopping_at(step)
    job = around.claimed()
    at = around.workplace(pipeline=pipeline, stopping=stopping, pace=ONLY_AT_THE_END)
    freed = run_job(job, at)
    assert freed is not None
    assert freed.checkpoint is not None
    assert (freed.status, freed.checkpoint.step) == (Status.QUEUED, step)
    latents = around.artifacts.get(freed.checkpoint.artifact, freed.checkpoint.generation)
    assert latents == saved_latents(job.scene, step)
    assert (freed.metrics.steps, freed.metrics.resumed_at) == (step, 0)
    other = FakePipeline()
    done = run_job(claimed_again(around, job), around.workplace(holder="w2", pipeline=other))
    assert done is not None
    assert (done.status, other.began_at) == (Status.SUCCEEDED, [step])


def test_where_nothing_is_to_be_saved_nothing_is(around: Surroundings, tmp_path: Path) -> None:
    stopping, pipeline = stopping_at(3)
    at = around.workplace(pipeline=pipeline, stopping=stopping, pace=NEVER)
    freed = run_job(around.claimed(), at)
    assert freed is not None
    assert (freed.status, freed.checkpoint, freed.latents) == (Status.QUEUED, None, ())
    assert files(around, tmp_path) == []


class SlowShelf:
    """A place for artifacts where latents wait until the test lets them in."""

    def __init__(self, around: Surroundings) -> None:
        self._real = around.artifacts
        self.reached, self.opened = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def put(self, name: str, data: bytes, *, content_type: str) -> object:
        if "latents" in name:
            self.reached.set()
            assert self.opened.wait(20), "the test never let them in"
        return self._real.put(name, data, content_type=content_type)


def test_a_stop_does_not_wait_for_a_store_that_hangs(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.run_job.LAST_SAVE", 0.05)
    stopping, pipeline = stopping_at(3)
    slow = SlowShelf(around)
    at = around.workplace(
        pipeline=pipeline, stopping=stopping, pace=ONLY_AT_THE_END, artifacts=slow
    )
    freed = run_job(around.claimed(), at)
    slow.opened.set()
    assert freed is not None
    assert (freed.status, freed.checkpoint) == (Status.QUEUED, None)
    assert freed.latents == (Latents(attempt=1, step=3),), "clean-up knows of them all the same"


def test_images_that_have_only_to_be_stored_are_stored(around: Surroundings) -> None:
    stopping = threading.Event()

    class Stopping:
        """Where the first image arrives just as the worker is told to stop."""

        def __getattr__(self, name: str) -> object:
            return getattr(around.artifacts, name)

        def put(self, name: str, data: bytes, *, content_type: str) -> object:
            stopping.set()
            return around.artifacts.put(name, data, content_type=content_type)

    at = around.workplace(artifacts=Stopping(), stopping=stopping)
    done = run_job(around.claimed(scene=a_scene(count=2)), at)
    assert done is not None
    assert (done.status, len(done.images)) == (Status.SUCCEEDED, 2)


def test_a_job_whose_step_never_ends_is_given_back_with_the_last_checkpoint(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    gate, stopping = Gate(), threading.Event()
    job = around.queued()

    def at_step(scene: Scene, step: int) -> None:
        if step == 3:
            until(lambda: saved_step(around, job) == 2)
            gate(scene, step)

    at = around.workplace(
        pipeline=FakePipeline(at_step=at_step), pace=EVERY_STEP, stopping=stopping
    )
    desk = around.desk(at)
    drawing = in_background(desk.draw_due)
    assert gate.reached.wait(20)
    stopping.set()
    desk.hands.give_back(finishing=False)
    freed = around.jobs.get(job.id)
    assert freed.checkpoint is not None
    assert (freed.status, freed.checkpoint.step, freed.interruptions) == (Status.QUEUED, 2, 1)
    assert freed.metrics.gpu_seconds > 0, "what was used is charged"
    gate.opened.set()
    drawing.join(20)
    assert around.jobs.get(job.id) == freed, "the step that ended late changed nothing"


def test_a_job_that_is_given_back_takes_the_step_along_that_ended_last(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    gate, job = Gate(), around.queued()

    def at_step(scene: Scene, step: int) -> None:
        if step == 3:
            gate(scene, step)

    at = around.workplace(pipeline=FakePipeline(at_step=at_step), pace=ONLY_AT_THE_END)
    desk = around.desk(at)
    drawing = in_background(desk.draw_due)
    assert gate.reached.wait(20)
    at.stopping.set()
    desk.hands.give_back(finishing=False)
    freed = around.jobs.get(job.id)
    assert freed.checkpoint is not None
    assert (freed.status, freed.checkpoint.step) == (Status.QUEUED, 2), "nothing was saved before"
    gate.opened.set()
    drawing.join(20)


def test_a_device_that_does_not_give_its_latents_holds_up_no_giving_back(
    around: Surroundings,
    in_background: Callable[..., threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.run_job.UNDER_WAY", 0.05)
    gate, job, hangs = Gate(), around.queued(), threading.Event()

    class Hangs(FakePipeline):
        """Whose device is at a step that never ends."""

        def draw(self, drawings, *, ahead=()):  # type: ignore[no-untyped-def]
            drawings[0].on_step(1, lambda: hangs.wait(20) and b"too late")
            gate(drawings[0].scene, 2)
            raise RuntimeError("ended at last")

    at = around.workplace(pipeline=Hangs(), pace=ONLY_AT_THE_END)
    desk = around.desk(at)
    drawing = in_background(desk.draw_due)
    assert gate.reached.wait(20)
    at.stopping.set()
    desk.hands.give_back(finishing=False)
    freed = around.jobs.get(job.id)
    assert (freed.status, freed.checkpoint, freed.interruptions) == (Status.QUEUED, None, 1)
    hangs.set()
    gate.opened.set()
    drawing.join(20)


def test_latents_that_are_being_stored_are_waited_for(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    stopping, pipeline = stopping_at(3)
    slow, job = SlowShelf(around), around.queued()
    at = around.workplace(
        pipeline=pipeline, stopping=stopping, pace=ONLY_AT_THE_END, artifacts=slow
    )
    desk = around.desk(at)
    drawing = in_background(desk.draw_due)
    assert slow.reached.wait(20)
    assert desk.hands.wait_until_drawn(20)
    assert desk.hands.finishing == (job.id,), "the step has ended, its latents have not arrived"
    slow.opened.set()
    drawing.join(20)
    freed = around.jobs.get(job.id)
    assert freed.checkpoint is not None
    assert (freed.checkpoint.step, freed.interruptions) == (3, 1)


# --- latents that cannot be used ----------------------------------------------------------------


def damage(around: Surroundings, tmp_path: Path, job: Job) -> None:
    for file in (tmp_path / "artifacts").rglob("latents-3.g*"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")


def remove(around: Surroundings, tmp_path: Path, job: Job) -> None:
    around.artifacts.delete(latents_name(job.id, 1, 3))


def swap(around: Surroundings, tmp_path: Path, job: Job) -> None:
    """Put latents of another scene into the checkpoint's place."""
    remove(around, tmp_path, job)
    foreign = saved_latents(a_scene("Somebody else's"), 3)
    stored = around.artifacts.put(latents_name(job.id, 1, 3), foreign, content_type="a/b")
    _replace_checkpoint(around, job, generation=stored.generation)


def mislabel(around: Surroundings, tmp_path: Path, job: Job) -> None:
    _replace_checkpoint(around, job, recipe=sha("another"))


def garble(around: Surroundings, tmp_path: Path, job: Job) -> None:
    remove(around, tmp_path, job)
    stored = around.artifacts.put(latents_name(job.id, 1, 3), b"\xff\0[", content_type="a/b")
    _replace_checkpoint(around, job, generation=stored.generation)


def _replace_checkpoint(around: Surroundings, job: Job, **what: Any) -> None:
    def change(job: Job, now: datetime) -> Job:
        assert job.checkpoint is not None
        return replace(job, checkpoint=replace(job.checkpoint, **what))

    around.jobs.update(job.id, change)


UNUSABLE = [remove, damage, swap, mislabel, garble]


def stopped_after_three(around: Surroundings) -> Job:
    stopping, pipeline = stopping_at(3)
    at = around.workplace(pipeline=pipeline, stopping=stopping, pace=ONLY_AT_THE_END)
    freed = run_job(around.claimed(), at)
    assert freed is not None
    return freed


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_a_checkpoint_that_cannot_be_used_fails_nothing(
    around: Surroundings, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    job = stopped_after_three(around)
    spoil(around, tmp_path, job)
    pipeline = FakePipeline()
    at = around.workplace(holder="w2", pipeline=pipeline)
    done = run_job(claimed_again(around, job), at)
    assert done is not None
    assert (done.status, done.failures) == (Status.SUCCEEDED, 0)
    assert pipeline.began_at == [0]
    assert (done.metrics.resumed_at, done.metrics.steps) == (0, 4)
    assert value(at.measures, "illo_checkpoints_total", outcome="refused") == 1


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_it_is_forgotten_so_that_earlier_steps_are_worth_saving_again(
    around: Surroundings, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    job = stopped_after_three(around)
    spoil(around, tmp_path, job)
    stopping, pipeline = stopping_at(2)
    at = around.workplace(holder="w2", pipeline=pipeline, stopping=stopping, pace=ONLY_AT_THE_END)
    freed = run_job(claimed_again(around, job), at)
    assert freed is not None
    assert freed.checkpoint is not None
    assert (freed.checkpoint.step, freed.checkpoint.attempt) == (2, 2)


@pytest.mark.parametrize("spoil", [remove, damage, mislabel])
def test_why_it_was_refused_is_told(
    around: Surroundings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[..., None],
) -> None:
    job = stopped_after_three(around)
    spoil(around, tmp_path, job)
    with caplog.at_level(logging.WARNING):
        run_job(claimed_again(around, job), around.workplace(holder="w2"))
    [told] = [record for record in caplog.records if record.message == "checkpoint refused"]
    assert told.__dict__["job_id"] == job.id
    assert told.__dict__["reason"]


class NoLatents:
    """A place for artifacts that is away whenever latents are asked for or brought."""

    def __init__(self, around: Surroundings, *methods: str) -> None:
        self._real, self._methods = around.artifacts, methods

    def __getattr__(self, method: str) -> object:
        found = getattr(self._real, method)

        def maybe(name: str, *given: object, **named: object) -> object:
            if method in self._methods and "latents" in name:
                raise ArtifactStoreUnavailable("away")
            return found(name, *given, **named)

        return maybe


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.stored.STORE_RETRIES", (0.0,))
    monkeypatch.setattr("worker.saver.STORE_RETRIES", (0.0,))


@pytest.mark.usefixtures("impatient")
def test_a_checkpoint_that_cannot_be_read_now_is_kept_for_the_next_attempt(
    around: Surroundings, tmp_path: Path
) -> None:
    job = stopped_after_three(around)
    stopping, pipeline = stopping_at(2)
    at = around.workplace(
        holder="w2", pipeline=pipeline, stopping=stopping, pace=EVERY_STEP,
        artifacts=NoLatents(around, "get"),
    )  # fmt: skip
    freed = run_job(claimed_again(around, job), at)
    assert freed is not None
    assert pipeline.began_at == [0]
    assert freed.checkpoint == job.checkpoint
    assert files(around, tmp_path) == [latents_name(job.id, 1, 3)], "nothing earlier was stored"


@pytest.mark.usefixtures("impatient")
def test_a_place_that_takes_no_latents_fails_no_drawing(around: Surroundings) -> None:
    at = around.workplace(pace=EVERY_STEP, artifacts=NoLatents(around, "put"))
    job = around.claimed(scene=a_scene(steps=30))
    done = run_job(job, at)
    assert done is not None
    assert (done.status, done.failures) == (Status.SUCCEEDED, 0)
    until(lambda: value(at.measures, "illo_checkpoints_total", outcome="failed") >= 1)


class BeginsAgain(FakePipeline):
    """Finds after two steps that its latents are no numbers, and starts over."""

    def draw(self, drawings, *, ahead=()):  # type: ignore[no-untyped-def]
        for drawing in drawings:
            self._two_steps(drawing)
        return super().draw(drawings, ahead=ahead)

    def _two_steps(self, drawing: Drawing) -> None:
        for step in (1, 2):
            drawing.on_step(step, lambda: b"no numbers")
            drawing.on_progress(Phase.DENOISING, step, drawing.scene.all_steps)


def test_a_drawing_that_begins_again_forgets_what_it_had_saved(around: Surroundings) -> None:
    job = around.claimed()
    said: list[int] = []

    def at_step(scene: Scene, step: int) -> None:
        if step == 1:
            until(lambda: checkpoint_of(around, job) is None)
            said.append(saved_step(around, job))

    done = run_job(job, around.workplace(pipeline=BeginsAgain(at_step=at_step), pace=EVERY_STEP))
    assert done is not None
    assert done.status is Status.SUCCEEDED
    assert said == [0]


# --- leases lost, jobs canceled, records full ---------------------------------------------------


def test_whoever_lost_the_lease_stores_nothing_more(around: Surroundings, tmp_path: Path) -> None:
    job = around.claimed(scene=a_scene(steps=50))
    at = around.workplace(pace=EVERY_STEP)

    def at_step(scene: Scene, step: int) -> None:
        if step == 2:
            until(lambda: saved_step(around, job) == 1)
            claimed_again(around, job)
        if step == 4:
            until(lambda: value(at.measures, "illo_checkpoints_total", outcome="failed") == 1)

    at = replace(at, pipeline=FakePipeline(at_step=at_step))
    assert run_job(job, at) is None
    assert latents(around, tmp_path) == [latents_name(job.id, 1, 1)]
    assert around.jobs.get(job.id).latents == (Latents(attempt=1, step=1),)


def test_a_full_record_stops_the_saving_and_not_the_drawing(
    around: Surroundings, tmp_path: Path
) -> None:
    job = around.claimed(scene=a_scene(steps=10))
    known = tuple(Latents(attempt=7, step=step) for step in range(100))
    job = around.jobs.update(job.id, lambda job, now: replace(job, latents=known))
    at = around.workplace(pace=EVERY_STEP)
    done = run_job(job, at)
    assert done is not None
    assert (done.status, done.latents) == (Status.SUCCEEDED, known)
    assert latents(around, tmp_path) == []


# --- errors and what they leave -----------------------------------------------------------------


def test_after_a_failed_upload_the_next_attempt_draws_nothing_again(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stored.STORE_RETRIES", ())
    job = around.claimed()

    def at_step(scene: Scene, step: int) -> None:
        if step == 4:
            until(lambda: saved_step(around, job) == 3)

    class NoImages(NoLatents):
        def __getattr__(self, method: str) -> object:
            if method == "put":
                return self._put
            return getattr(around.artifacts, method)

        def _put(self, name: str, data: bytes, *, content_type: str) -> object:
            if "latents" not in name:
                raise ArtifactStoreUnavailable("away")
            return around.artifacts.put(name, data, content_type=content_type)

    at = around.workplace(
        pipeline=FakePipeline(at_step=at_step), pace=EVERY_STEP, artifacts=NoImages(around)
    )
    waiting = run_job(job, at)
    assert waiting is not None
    assert waiting.error is not None
    assert (waiting.error.code, saved_step(around, job)) == (ErrorCode.ARTIFACT_STORE, 3)


def test_after_an_error_of_the_drawing_the_next_attempt_begins_at_the_start(
    around: Surroundings,
) -> None:
    job = around.claimed()

    def at_step(scene: Scene, step: int) -> None:
        if step == 3:
            until(lambda: saved_step(around, job) == 2)
            raise RuntimeError("who knows")

    at = around.workplace(pipeline=FakePipeline(at_step=at_step), pace=EVERY_STEP)
    waiting = run_job(job, at)
    assert waiting is not None
    assert (waiting.status, waiting.checkpoint) == (Status.QUEUED, None)
    assert Latents(attempt=1, step=2) in waiting.latents


# --- cleaning up --------------------------------------------------------------------------------


def swept(around: Surroundings, tmp_path: Path, job: Job) -> None:
    """Clean up as the sweep does, once it is time."""
    around.jobs.update(job.id, lambda job, now: replace(job, cleanup_due=now))
    workers = SqliteWorkerStore(Database(tmp_path / "illo.sqlite", clock=SystemClock()))
    backends: Any = SimpleNamespace(jobs=around.jobs, artifacts=around.artifacts, workers=workers)
    assert clean_up(backends, limit=10) == 1


def test_clean_up_leaves_the_image_and_nothing_after_a_deletion(
    around: Surroundings, tmp_path: Path
) -> None:
    job = around.claimed(scene=a_scene(steps=9))
    killed_at(around, job, 5, saved=4)
    again = claimed_again(around, job)

    def at_step(scene: Scene, step: int) -> None:
        if step == 9:
            until(lambda: saved_step(around, job) == 8)

    pipeline = FakePipeline(at_step=at_step)
    done = run_job(again, around.workplace(holder="w2", pipeline=pipeline, pace=EVERY_STEP))
    assert done is not None
    assert done.status is Status.SUCCEEDED
    assert {latents_name(job.id, 1, 4), latents_name(job.id, 2, 8)} <= {*files(around, tmp_path)}
    swept(around, tmp_path, done)
    assert files(around, tmp_path) == [done.images[0].artifact]
    around.jobs.update(job.id, delete)
    swept(around, tmp_path, done)
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == []


def test_latents_that_no_heartbeat_told_of_are_cleaned_up_too(
    around: Surroundings, tmp_path: Path
) -> None:
    job = around.claimed()
    silent = replace(EVERY_STEP, heartbeat=60.0)

    class Mute:
        """A store that hears announcements, and no checkpoint."""

        def __getattr__(self, name: str) -> object:
            return getattr(around.jobs, name)

        def update(self, id: str, change: Any) -> Job:
            if change.func is announce:
                return around.jobs.update(id, change)
            if change.func is renew:
                return around.jobs.get(id)
            return around.jobs.update(id, change)

    stored = latents_name(job.id, 1, 1)

    def at_step(scene: Scene, step: int) -> None:
        if step == 2:
            until(lambda: stored in files(around, tmp_path))
            raise Killed

    at = around.workplace(jobs=Mute(), pipeline=FakePipeline(at_step=at_step), pace=silent)
    with pytest.raises(Killed):
        run_job(job, at)
    assert checkpoint_of(around, job) is None
    done = run_job(claimed_again(around, job), around.workplace(holder="w2"))
    assert done is not None
    swept(around, tmp_path, done)
    assert files(around, tmp_path) == [done.images[0].artifact]


def test_the_checkpoint_of_a_finished_drawing_is_drawn_no_step_of(around: Surroundings) -> None:
    job = around.claimed()
    stored = around.artifacts.put(
        latents_name(job.id, 1, 4), saved_latents(job.scene, 4), content_type="a/b"
    )
    whole = a_checkpoint(job, 4, generation=stored.generation)
    around.jobs.update(job.id, lambda job, now: replace(job, checkpoint=whole))
    pipeline = FakePipeline()
    done = run_job(claimed_again(around, job), around.workplace(holder="w2", pipeline=pipeline))
    assert done is not None
    assert (done.status, pipeline.steps, done.metrics.resumed_at) == (Status.SUCCEEDED, 0, 4)


def test_a_pipeline_that_goes_on_earlier_than_told_is_believed(around: Surroundings) -> None:
    job = stopped_after_three(around)

    class Cautious(FakePipeline):
        """Takes two of three steps only."""

        def draw(self, drawings, *, ahead=()):  # type: ignore[no-untyped-def]
            back = saved_latents(job.scene, 2)
            return super().draw([replace(each, resume=back) for each in drawings], ahead=ahead)

    done = run_job(claimed_again(around, job), around.workplace(holder="w2", pipeline=Cautious()))
    assert done is not None
    assert (done.metrics.resumed_at, done.metrics.steps) == (2, 2)


def test_what_was_drawn_tells_its_figures(around: Surroundings) -> None:
    class Measured(FakePipeline):
        def draw(self, drawings, *, ahead=()):  # type: ignore[no-untyped-def]
            return [
                replace(drawn, peak_bytes=5_000, remembered=1, unread_tokens=3, denoise_seconds=2.0)
                if isinstance(drawn, Drawn)
                else drawn
                for drawn in super().draw(drawings, ahead=ahead)
            ]

    at = around.workplace(pipeline=Measured())
    done = run_job(around.claimed(), at)
    assert done is not None
    took = done.metrics
    assert (took.steps, took.resumed_at, took.peak_bytes, took.remembered) == (4, 0, 5_000, 1)
    assert took.unread_tokens == 3
    assert took.steps_per_second == 2.0
    assert value(at.measures, "illo_peak_memory_bytes") == 5_000
