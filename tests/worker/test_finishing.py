"""What was drawn is finished while the next is being drawn: stored, committed or given back."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.errors import ArtifactStoreUnavailable, StoreUnavailable
from shared.jobs import Job, Terms, cancel
from shared.scenes import Scene
from shared.vocabulary import ErrorCode, Event, Status
from tests.builders import a_scene
from tests.fakes import FakePipeline, Gate
from tests.worker.conftest import PACE, TERMS, Surroundings
from tests.worker.test_push import a_push, pushed
from tests.worker.test_run_job import stolen
from worker.desk import Desk
from worker.heartbeat import Heartbeat
from worker.push import PushAnswer

Background = Callable[[Callable[[], object]], threading.Thread]


class Shelf:
    """A place for artifacts that asks the test before it takes an image of a job."""

    def __init__(self, around: Surroundings, asked: Callable[[Job], object]) -> None:
        self._around, self._asked = around, asked

    def __getattr__(self, name: str) -> object:
        return getattr(self._around.artifacts, name)

    def put(self, name: str, data: bytes, *, content_type: str) -> object:
        self._asked(self._around.jobs.get(name.split("/")[1]))
        return self._around.artifacts.put(name, data, content_type=content_type)


class Counter:
    """Where images of a prompt arrive, and wait until the test lets them in."""

    def __init__(self, *prompts: str) -> None:
        self._prompts = prompts
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> None:
        if job.scene.prompt in self._prompts:
            self.reached.set()
            assert self.opened.wait(20), "the test never let them in"


class Signal:
    """Tells when the drawing of a prompt has begun."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self.begun = threading.Event()

    def __call__(self, scene: Scene, step: int) -> None:
        if scene.prompt == self._prompt:
            self.begun.set()


def until(true: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came true")


def line(around: Surroundings, *prompts: str) -> list[Job]:
    return [around.queued(scene=a_scene(prompt)) for prompt in prompts]


def status(around: Surroundings, job: Job) -> Status:
    return around.jobs.get(job.id).status


# --- beside the next drawing --------------------------------------------------------------------


def test_the_next_drawing_begins_before_the_images_of_the_last_are_stored(
    around: Surroundings,
) -> None:
    jobs, second = line(around, "first", "second"), Signal("second")

    def asked(job: Job) -> None:
        if job.scene.prompt == "first":
            assert second.begun.wait(20), "the drawing waited for the images"

    at = around.workplace(pipeline=FakePipeline(at_step=second), artifacts=Shelf(around, asked))
    around.desk(at).draw_due()
    assert [status(around, job) for job in jobs] == [Status.SUCCEEDED] * 2


def test_no_more_is_drawn_than_is_stored_but_for_one(
    around: Surroundings, in_background: Background
) -> None:
    jobs, third = line(around, "first", "second", "third"), Signal("third")
    first, second = Counter("first"), Counter("second")

    def asked(job: Job) -> None:
        first(job)
        second(job)

    at = around.workplace(pipeline=FakePipeline(at_step=third), artifacts=Shelf(around, asked))
    drawing = in_background(around.desk(at).draw_due)
    assert first.reached.wait(20)
    assert second.reached.wait(20)
    assert not third.begun.wait(0.3)
    assert status(around, jobs[2]) is Status.QUEUED, "another worker may still have it"
    second.opened.set()
    assert third.begun.wait(20), "one may be stored beside the drawing"
    first.opened.set()
    drawing.join(20)
    assert [status(around, job) for job in jobs] == [Status.SUCCEEDED] * 3


def test_the_lease_is_renewed_until_the_commit(
    around: Surroundings, in_background: Background
) -> None:
    terms, pace = Terms(lease=timedelta(seconds=1)), replace(PACE, heartbeat=0.1)
    [job], counter = line(around, "first"), Counter("first")
    at = around.workplace(terms=terms, pace=pace, artifacts=Shelf(around, counter))
    drawing = in_background(around.desk(at).draw_due)
    assert counter.reached.wait(20)
    reached = around.jobs.get(job.id).lease
    assert reached is not None

    def renewed() -> bool:
        lease = around.jobs.get(job.id).lease
        return lease is not None and lease.expires_at > reached.expires_at + terms.lease

    until(renewed)
    counter.opened.set()
    drawing.join(20)
    assert (status(around, job), around.jobs.get(job.id).attempt) == (Status.SUCCEEDED, 1)


def test_only_the_drawing_is_charged(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = threading.Event()
    monkeypatch.setattr(Heartbeat, "seconds", property(lambda beat: 99.0 if stored.is_set() else 8))
    [job] = line(around, "first")
    at = around.workplace(artifacts=Shelf(around, lambda job: stored.set()))
    around.desk(at).draw_due()
    assert around.jobs.get(job.id).metrics.gpu_seconds == 8


def test_the_rate_is_known_before_the_images_are_stored(around: Surroundings) -> None:
    first, second = line(around, "first", "second")
    told, rates = threading.Event(), list[float | None]()

    def changed(job: Job | None, rate: float | None) -> None:
        if job and job.id == second.id:
            rates.append(rate)
            told.set()

    def asked(job: Job) -> None:
        if job.id == first.id:
            assert told.wait(20)

    around.desk(around.workplace(artifacts=Shelf(around, asked)), changed=changed).draw_due()
    assert rates[0] is not None


# --- pushes -------------------------------------------------------------------------------------


def test_a_push_is_answered_only_when_what_it_drew_is_committed(
    around: Surroundings, in_background: Background
) -> None:
    [job], counter = line(around, "first"), Counter("first")
    desk = around.desk(around.workplace(artifacts=Shelf(around, counter)))
    answers: list[PushAnswer] = []
    push = in_background(lambda: answers.append(pushed(around, a_push(job.id), desk=desk)))
    assert counter.reached.wait(20)
    again = in_background(lambda: answers.append(pushed(around, a_push(job.id), desk=desk)))
    push.join(0.2)
    again.join(0.2)
    assert (answers, desk.hands.finishing) == ([], (job.id,))
    counter.opened.set()
    push.join(20)
    again.join(20)
    assert (answers, status(around, job)) == ([PushAnswer.DONE] * 2, Status.SUCCEEDED)


def test_a_push_may_draw_while_another_waits_for_its_images(
    around: Surroundings, in_background: Background
) -> None:
    [job], counter = line(around, "first"), Counter("first")
    desk = around.desk(around.workplace(artifacts=Shelf(around, counter)))
    push = in_background(lambda: pushed(around, a_push(job.id), desk=desk))
    assert counter.reached.wait(20)
    [late] = line(around, "late")
    assert pushed(around, a_push(late.id), desk=desk) is PushAnswer.DONE
    assert (status(around, late), status(around, job)) == (Status.SUCCEEDED, Status.RUNNING)
    counter.opened.set()
    push.join(20)
    assert status(around, job) is Status.SUCCEEDED


# --- what goes wrong ----------------------------------------------------------------------------


def test_images_that_cannot_be_stored_fail_their_own_job_alone(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stored.STORE_RETRIES", ())

    def asked(job: Job) -> None:
        if job.scene.prompt == "first":
            raise ArtifactStoreUnavailable("away")

    jobs = line(around, "first", "second")
    around.desk(around.workplace(artifacts=Shelf(around, asked))).draw_due()
    failed, drawn = (around.jobs.get(job.id) for job in jobs)
    assert failed.error is not None
    assert (failed.error.code, failed.failures) == (ErrorCode.ARTIFACT_STORE, 1)
    assert (failed.status, failed.timeline[-1].event) == (Status.QUEUED, Event.RETRIED)
    assert (drawn.status, drawn.failures) == (Status.SUCCEEDED, 0)


def test_an_unforeseen_error_of_the_storing_ends_neither_the_worker_nor_the_next_job(
    around: Surroundings,
) -> None:
    def asked(job: Job) -> None:
        if job.scene.prompt == "first":
            raise ValueError("who knows")

    jobs = line(around, "first", "second")
    desk = around.desk(around.workplace(artifacts=Shelf(around, asked)))
    desk.draw_due()
    failed, drawn = (around.jobs.get(job.id) for job in jobs)
    assert failed.error is not None
    assert (failed.error.code, drawn.status) == (ErrorCode.INTERNAL, Status.SUCCEEDED)
    assert desk.hands.wait_until_free(0)


def test_whoever_lost_the_lease_while_its_images_were_stored_commits_nothing(
    around: Surroundings,
) -> None:
    def asked(job: Job) -> None:
        if job.scene.prompt == "first" and job.attempt == 1:
            around.jobs.update(job.id, stolen)

    jobs = line(around, "first", "second")
    around.desk(around.workplace(artifacts=Shelf(around, asked))).draw_due()
    lost = around.jobs.get(jobs[0].id)
    assert lost.lease is not None
    assert (lost.lease.holder, lost.status, lost.images) == ("w2", Status.RUNNING, ())
    assert status(around, jobs[1]) is Status.SUCCEEDED


def test_a_cancel_wish_between_two_images_is_heard(around: Surroundings) -> None:
    asked_for: list[str] = []

    def asked(job: Job) -> None:
        asked_for.append(job.id)
        around.jobs.update(job.id, lambda job, now: cancel(job, now, terms=TERMS))
        # a heartbeat ends when it has heard something
        until(lambda: f"heartbeat {job.id}" not in {t.name for t in threading.enumerate()})

    job = around.queued(scene=a_scene(count=2))
    around.desk(around.workplace(artifacts=Shelf(around, asked))).draw_due()
    ended = around.jobs.get(job.id)
    assert (ended.status, ended.images, asked_for) == (Status.CANCELED, (), [job.id])


def test_a_cancel_wish_after_the_last_image_comes_too_late(around: Surroundings) -> None:
    def asked(job: Job) -> None:
        around.jobs.update(job.id, lambda job, now: cancel(job, now, terms=TERMS))

    [job] = line(around, "first")
    around.desk(around.workplace(artifacts=Shelf(around, asked))).draw_due()
    assert status(around, job) is Status.SUCCEEDED


def test_a_store_that_is_away_between_two_jobs_waits_for_the_images_of_the_first(
    around: Surroundings,
) -> None:
    jobs = line(around, "first", "second")
    looks: list[int] = []

    class Away:
        def __getattr__(self, name: str) -> object:
            return getattr(around.jobs, name)

        def claimable(self, *, per_tenant: int) -> list[Job]:
            looks.append(1)
            if len(looks) > 1:
                raise StoreUnavailable("away")
            return around.jobs.claimable(per_tenant=per_tenant)

    assert around.desk(around.workplace(jobs=Away())).draw_due()
    assert [status(around, job) for job in jobs] == [Status.SUCCEEDED, Status.QUEUED]


# --- when the worker must stop ------------------------------------------------------------------

SOON, LATE = 0.2, 20.0  # seconds; what comes in time comes long before LATE


class Stopped:
    """A worker that is told to stop while it draws, finishes, or both."""

    def __init__(self, around: Surroundings, in_background: Background) -> None:
        self.around, self._in_background = around, in_background
        self.gate, self.counter = Gate(), Counter("finishing")
        self.stopping = threading.Event()
        pipeline = FakePipeline(at_step=self._at_step)
        shelf = Shelf(around, self.counter)
        self.desk: Desk = around.desk(
            around.workplace(pipeline=pipeline, artifacts=shelf, stopping=self.stopping)
        )

    def _at_step(self, scene: Scene, step: int) -> None:
        if scene.prompt == "drawing":
            self.gate(scene, step)

    def drain(self, *, step: float = SOON, last_moment: float = LATE) -> threading.Thread:
        self.stopping.set()
        hands = self.desk.hands
        return self._in_background(lambda: hands.drain(step=step, last_moment=last_moment))

    def begin(self, *prompts: str) -> list[Job]:
        jobs = line(self.around, *prompts)
        self.working = self._in_background(self.desk.draw_due)
        for prompt, event in (
            ("finishing", self.counter.reached), ("drawing", self.gate.reached)
        ):  # fmt: skip
            assert prompt not in prompts or event.wait(20)
        return jobs

    def end(self) -> None:
        self.gate.opened.set()
        self.counter.opened.set()
        self.working.join(20)
        assert not self.working.is_alive()


@pytest.fixture
def stopped(around: Surroundings, in_background: Background) -> Stopped:
    return Stopped(around, in_background)


def released(job: Job) -> tuple[object, ...]:
    return job.status, job.interruptions, job.timeline[-1].event


BACK = (Status.QUEUED, 1, Event.RELEASED)


def test_a_step_that_ends_soon_gives_its_job_back_by_itself(stopped: Stopped) -> None:
    [job] = stopped.begin("drawing")
    draining = stopped.drain(step=LATE)
    stopped.gate.opened.set()
    draining.join(20)
    assert released(stopped.around.jobs.get(job.id)) == BACK
    stopped.end()


def test_a_step_that_does_not_end_is_not_waited_for(stopped: Stopped) -> None:
    [job] = stopped.begin("drawing")
    draining = stopped.drain(last_moment=600.0)
    draining.join(10)  # long before the gate gives up
    assert not draining.is_alive(), "nothing is left to wait for"
    freed = stopped.around.jobs.get(job.id)
    assert released(freed) == BACK
    stopped.end()
    assert stopped.around.jobs.get(job.id) == freed


def test_what_is_drawn_is_still_committed(stopped: Stopped) -> None:
    [job] = stopped.begin("finishing")
    draining = stopped.drain()
    draining.join(SOON * 2)
    assert draining.is_alive(), "it waits for the images"
    stopped.counter.opened.set()
    draining.join(20)
    assert status(stopped.around, job) is Status.SUCCEEDED
    stopped.end()


def test_what_cannot_be_stored_in_time_is_given_back_at_the_last_moment(stopped: Stopped) -> None:
    [job] = stopped.begin("finishing")
    stopped.drain(last_moment=SOON).join(20)
    freed = stopped.around.jobs.get(job.id)
    assert released(freed) == BACK
    stopped.end()
    assert stopped.around.jobs.get(job.id) == freed, "images that arrived late changed nothing"


def test_one_is_given_back_at_once_while_the_other_is_still_stored(stopped: Stopped) -> None:
    finishing, drawing = stopped.begin("finishing", "drawing")
    draining = stopped.drain()
    until(lambda: released(stopped.around.jobs.get(drawing.id)) == BACK)
    # who gave the other back takes it out of its hands a moment after the store has it
    until(lambda: stopped.desk.hands.finishing == (finishing.id,))
    assert draining.is_alive()
    stopped.counter.opened.set()
    draining.join(20)
    assert status(stopped.around, finishing) is Status.SUCCEEDED
    stopped.end()


def test_an_idle_worker_has_nothing_to_wait_for(around: Surroundings) -> None:
    around.desk().hands.drain(step=600.0, last_moment=600.0)
