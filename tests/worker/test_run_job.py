"""What becomes of one claimed job: drawn, failed, canceled, given back, or taken by another."""

import io
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from shared.artifact_names import image_name
from shared.errors import (
    ArtifactExists,
    ArtifactStoreUnavailable,
    BlankImage,
    InvalidReference,
    OutOfMemory,
    StoreUnavailable,
)
from shared.jobs import Job, Terms, cancel, claim
from shared.scenes import ImageFormat, Reference, Scene, Weights
from shared.vocabulary import ErrorCode, Event, Lease, Status
from tests.builders import a_reference, a_scene, sha
from tests.fakes import FakePipeline
from tests.worker.conftest import PACE, TERMS, Surroundings
from worker.heartbeat import Pace
from worker.run_job import run_job


def raising(error: Exception) -> FakePipeline:
    def at_step(scene: Scene, step: int) -> None:
        raise error

    return FakePipeline(at_step=at_step)


def test_a_drawn_job_has_its_images_stored_and_committed(around: Surroundings) -> None:
    job = around.claimed(scene=a_scene(count=2, seed=9, width=96, height=64))
    done = run_job(job, around.workplace())
    assert done is not None
    assert (done.status, done.images_attempt) == (Status.SUCCEEDED, 1)
    assert [image.seed for image in done.images] == [9, 10]
    assert [image.artifact for image in done.images] == [
        image_name(job.id, 1, i, "png") for i in (0, 1)
    ]
    for image in done.images:
        content = around.artifacts.get(image.artifact, image.generation)
        assert Image.open(io.BytesIO(content)).size == (96, 64)
    assert set(done.metrics.stages or ()) >= {
        "loading", "encoding", "denoising", "decoding", "image_encoding", "uploading"
    }  # fmt: skip


@pytest.mark.parametrize("format", ImageFormat)
def test_the_name_of_an_image_tells_its_format(around: Surroundings, format: ImageFormat) -> None:
    done = run_job(around.claimed(scene=a_scene(format=format)), around.workplace())
    assert done is not None
    assert done.images[0].artifact.endswith(f"/a1/0.{format.value}")


def a_stored_reference(around: Surroundings) -> Reference:
    shot = io.BytesIO()
    Image.new("RGB", (64, 64), "tomato").save(shot, "PNG")
    stored = around.artifacts.put("assets/mia.png", shot.getvalue(), content_type="image/png")
    return a_reference(sha256=stored.sha256, artifact=stored.name, generation=stored.generation)


def test_the_pipeline_gets_the_pictures_that_a_scene_refers_to(around: Surroundings) -> None:
    seen: list[tuple[int, int]] = []

    class Looking(FakePipeline):
        def draw(self, drawings, *, ahead=()):  # type: ignore[no-untyped-def]
            for drawing in drawings:
                seen.extend(drawing.read(each).size for each in drawing.scene.references)
            return super().draw(drawings, ahead=ahead)

    job = around.claimed(scene=a_scene(references=(a_stored_reference(around),)))
    assert run_job(job, around.workplace(pipeline=Looking()))
    assert seen == [(64, 64)]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (BlankImage("flat"), ErrorCode.BLANK_IMAGE, Status.QUEUED),
        (InvalidReference("no picture"), ErrorCode.INVALID_REFERENCE, Status.FAILED),
        (OutOfMemory("no room"), ErrorCode.OUT_OF_MEMORY, Status.FAILED),
        (ArtifactExists("taken"), ErrorCode.ARTIFACT_STORE, Status.QUEUED),
        (RuntimeError("who knows"), ErrorCode.INTERNAL, Status.QUEUED),
    ],
)
def test_an_error_of_the_drawing_becomes_the_outcome_of_the_attempt(
    around: Surroundings, error: Exception, code: ErrorCode, status: Status
) -> None:
    ended = run_job(around.claimed(), around.workplace(pipeline=raising(error)))
    assert ended is not None
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (status, code)


def test_an_unforeseen_error_tells_neither_the_log_nor_the_job_what_it_quotes(
    around: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = raising(RuntimeError("cannot read 'the secret prompt'"))
    with caplog.at_level(logging.DEBUG):
        ended = run_job(
            around.claimed(scene=a_scene("the secret prompt")), around.workplace(pipeline=pipeline)
        )
    assert ended is not None
    told = json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert "drawing failed" in told
    assert "secret" not in told + str(ended.error)


def test_a_missing_or_damaged_reference_fails_the_job_and_says_which(around: Surroundings) -> None:
    gone = around.claimed(scene=a_scene(references=(a_reference("gone"),)))
    ended = run_job(gone, around.workplace())
    assert ended is not None
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.REFERENCE_DAMAGED)
    assert gone.scene.references[0].asset in ended.error.message


def test_a_reference_whose_bytes_changed_is_told_as_damaged(
    around: Surroundings, tmp_path: Path
) -> None:
    reference = a_stored_reference(around)
    for file in (tmp_path / "artifacts").rglob("mia.g*.png"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    ended = run_job(around.claimed(scene=a_scene(references=(reference,))), around.workplace())
    assert ended is not None
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.REFERENCE_DAMAGED)


def test_a_job_for_other_weights_is_refused_not_drawn(around: Surroundings) -> None:
    pipeline = FakePipeline()
    other = a_scene(weights=Weights(label="tiny", sha256=sha("other")))
    ended = run_job(around.claimed(scene=other), around.workplace(pipeline=pipeline))
    assert ended is not None
    assert ended.error is not None
    assert (ended.error.code, pipeline.drawn) == (ErrorCode.WEIGHTS_CHANGED, [])


def test_a_cancel_wish_is_heard_at_the_next_step(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    job = around.claimed(scene=a_scene(steps=100))
    reached = threading.Event()
    heard_after: list[int] = []

    def at_step(scene: Scene, step: int) -> None:
        heard_after.append(step)
        if step == 3:
            around.jobs.update(job.id, lambda job, now: cancel(job, now, terms=TERMS))
            reached.set()
        if step > 3:
            reached.wait(0.1)  # a step that takes a while
            threading.Event().wait(0.1)

    ended = run_job(job, around.workplace(pipeline=FakePipeline(at_step=at_step)))
    assert ended is not None
    assert (ended.status, ended.lease) == (Status.CANCELED, None)
    assert 3 < len(heard_after) < 100


def test_a_worker_that_must_stop_gives_the_job_back_at_the_next_step(around: Surroundings) -> None:
    stopping = threading.Event()

    def at_step(scene: Scene, step: int) -> None:
        if step == 2:
            stopping.set()

    workplace = around.workplace(pipeline=FakePipeline(at_step=at_step), stopping=stopping)
    ended = run_job(around.claimed(), workplace)
    assert ended is not None
    assert (ended.status, ended.interruptions) == (Status.QUEUED, 1)
    assert ended.timeline[-1].event is Event.RELEASED


def stolen(job: Job, now: datetime) -> Job:
    """What another worker's claim leaves behind when the lease has run out."""
    expired = replace(job.lease, expires_at=now - timedelta(minutes=1))  # type: ignore[type-var]
    return claim(replace(job, lease=expired), now, holder="w2", terms=TERMS)


def test_a_zombie_commits_nothing_and_leaves_the_winners_bytes_alone(around: Surroundings) -> None:
    job = around.claimed()
    winners: list[Job] = []

    def at_step(scene: Scene, step: int) -> None:
        if step == scene.steps:
            won = around.jobs.update(job.id, stolen)
            winner = run_job(won, around.workplace(holder="w2"))
            assert winner is not None
            winners.append(winner)

    assert run_job(job, around.workplace(pipeline=FakePipeline(at_step=at_step))) is None
    assert around.jobs.get(job.id) == winners[0]
    image = winners[0].images[0]
    assert image.artifact == f"jobs/{job.id}/a2/0.png"
    assert around.artifacts.get(image.artifact, image.generation)


def test_a_lost_lease_stops_the_drawing_before_its_end(around: Surroundings) -> None:
    job = around.claimed(scene=a_scene(steps=100))
    steps: list[int] = []

    def at_step(scene: Scene, step: int) -> None:
        steps.append(step)
        if step == 1:
            around.jobs.update(job.id, stolen)
        threading.Event().wait(0.05)

    assert run_job(job, around.workplace(pipeline=FakePipeline(at_step=at_step))) is None
    assert len(steps) < 100


def test_a_lost_lease_is_noticed_also_when_nothing_is_written(around: Surroundings) -> None:
    job = around.claimed(scene=a_scene(steps=100))
    steps: list[int] = []

    def at_step(scene: Scene, step: int) -> None:
        steps.append(step)
        if step == 1:
            around.jobs.update(job.id, stolen)
        threading.Event().wait(0.05)

    silent = replace(PACE, progress=60.0, heartbeat=60.0)
    pipeline = FakePipeline(at_step=at_step)
    assert run_job(job, around.workplace(pipeline=pipeline, pace=silent)) is None
    assert len(steps) < 100


def test_a_store_that_is_away_for_a_whole_lease_stops_the_drawing(around: Surroundings) -> None:
    short = Terms(lease=timedelta(seconds=0.5))
    job = around.claimed(scene=a_scene(steps=100))
    steps: list[int] = []

    def at_step(scene: Scene, step: int) -> None:
        steps.append(step)
        threading.Event().wait(0.05)

    class Away:
        def __getattr__(self, name: str) -> object:
            raise StoreUnavailable("away")

    pipeline = FakePipeline(at_step=at_step)
    assert run_job(job, around.workplace(jobs=Away(), pipeline=pipeline, terms=short)) is None
    assert len(steps) < 100


def test_progress_comes_out_while_drawing(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    job, told = around.claimed(), threading.Event()

    def at_step(scene: Scene, step: int) -> None:
        deadline = threading.Event()
        for _ in range(200):
            progress = around.jobs.get(job.id).progress
            if progress and progress.step >= step - 1:
                break
            deadline.wait(0.02)
        else:
            pytest.fail("no progress was told")
        told.set()

    ended = run_job(job, around.workplace(pipeline=FakePipeline(at_step=at_step)))
    assert ended is not None
    assert ended.status is Status.SUCCEEDED
    assert told.is_set()


def test_progress_comes_out_also_where_it_may_be_written_seldom(around: Surroundings) -> None:
    job = around.claimed()
    seldom = replace(PACE, progress=0.8, heartbeat=60.0)  # longer than between two reads

    def at_step(scene: Scene, step: int) -> None:
        if step == 3:
            for _ in range(1000):
                progress = around.jobs.get(job.id).progress
                if progress and progress.step == 2:
                    return
                threading.Event().wait(0.01)
            pytest.fail("no progress was told")

    ended = run_job(job, around.workplace(pipeline=FakePipeline(at_step=at_step), pace=seldom))
    assert ended is not None
    assert ended.status is Status.SUCCEEDED


def test_a_drawing_longer_than_its_lease_keeps_it(around: Surroundings) -> None:
    short = Terms(lease=timedelta(seconds=0.6), steal_grace=timedelta(0))
    job = around.queued(scene=a_scene(steps=20))
    claimed = around.jobs.update(job.id, lambda job, now: claim(job, now, holder="w1", terms=short))
    pipeline = FakePipeline(at_step=lambda scene, step: threading.Event().wait(0.1) and None)
    pace = replace(PACE, heartbeat=0.2)
    ended = run_job(claimed, around.workplace(pipeline=pipeline, terms=short, pace=pace))
    assert ended is not None
    assert ended.status is Status.SUCCEEDED


def test_a_hung_step_stops_the_renewals_and_is_reported(around: Surroundings) -> None:
    reported = threading.Event()

    def hung(reason: str) -> None:
        around.hung.append(reason)
        reported.set()

    job = around.claimed()
    pipeline = FakePipeline(at_step=lambda scene, step: reported.wait(20) and None)
    pace = Pace(heartbeat=0.1, progress=0.05, step_timeout=0.5)
    run_job(job, around.workplace(pipeline=pipeline, pace=pace, hung=hung))
    assert len(around.hung) == 1
    assert job.id in around.hung[0]


class Flaky:
    """A store or a place for artifacts that is away at the calls with these numbers."""

    def __init__(self, real: object, method: str, error: Exception, away: range) -> None:
        self._real, self._method, self._error = real, method, error
        self._away, self.calls = away, 0

    def __getattr__(self, name: str) -> object:
        found = getattr(self._real, name)
        if name != self._method:
            return found

        def maybe(*given: object, **named: object) -> object:
            self.calls += 1
            if self.calls in self._away:
                raise self._error
            return found(*given, **named)

        return maybe


def test_a_store_that_is_away_at_the_commit_is_asked_again(around: Surroundings) -> None:
    job = around.claimed()
    calm = replace(PACE, progress=60.0)  # so that the commit is the first update
    flaky = Flaky(around.jobs, "update", StoreUnavailable("away"), range(1, 4))
    ended = run_job(job, around.workplace(jobs=flaky, pace=calm))
    assert ended is not None
    assert ended.status is Status.SUCCEEDED
    assert flaky.calls == 4


def test_a_store_that_stays_away_until_the_lease_ends_is_given_up(around: Surroundings) -> None:
    short = Terms(lease=timedelta(seconds=0.5))
    job = around.claimed()
    flaky = Flaky(around.jobs, "update", StoreUnavailable("away"), range(1, 1000))
    assert run_job(job, around.workplace(jobs=flaky, terms=short)) is None
    assert around.jobs.get(job.id).status is Status.RUNNING


@pytest.mark.parametrize(
    ("away", "status"), [(range(1, 3), Status.SUCCEEDED), (range(1, 99), Status.QUEUED)]
)
def test_uploads_are_tried_again_a_few_times(
    around: Surroundings, away: range, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stored.STORE_RETRIES", (0.0, 0.0, 0.0))
    flaky = Flaky(around.artifacts, "put", ArtifactStoreUnavailable("away"), away)
    ended = run_job(around.claimed(), around.workplace(artifacts=flaky))
    assert ended is not None
    assert ended.status is status


def test_a_job_without_a_lease_is_not_drawn(around: Surroundings) -> None:
    with pytest.raises(Exception, match="not claimed"):
        run_job(around.queued(), around.workplace())


def test_a_lease_names_its_holder_and_attempt(around: Surroundings) -> None:
    lease = around.claimed().lease
    assert isinstance(lease, Lease)
    assert (lease.holder, lease.token) == ("w1", 1)
