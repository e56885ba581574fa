"""Jobs that one call of the pipeline draws: each has its own lease, outcome and commit."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from shared.errors import InvalidReference, OutOfMemory, StoreUnavailable
from shared.jobs import Job, cancel, claim
from shared.scenes import Scene, Weights
from shared.vocabulary import ErrorCode, Event, Status
from tests.builders import a_scene, sha
from tests.fakes import FakePipeline, Gate
from tests.worker.conftest import PACE, TERMS, Surroundings
from tests.worker.test_finishing import until
from tests.worker.test_run_job import stolen
from worker.drawing import Ahead, Drawing, Drawn
from worker.heartbeat import Heartbeat

Background = Callable[[Callable[[], object]], threading.Thread]


def line(around: Surroundings, *prompts: str, **what: object) -> list[Job]:
    return [around.queued(scene=a_scene(prompt, **what)) for prompt in prompts]


def drawn(around: Surroundings, pipeline: FakePipeline, **what: object) -> FakePipeline:
    around.desk(around.workplace(pipeline=pipeline, **what)).draw_due()
    return pipeline


def ended(around: Surroundings, jobs: Sequence[Job]) -> list[Job]:
    return [around.jobs.get(job.id) for job in jobs]


def test_jobs_of_one_size_are_drawn_by_one_call(around: Surroundings) -> None:
    jobs = [around.queued(scene=a_scene(name, seed=seed)) for name, seed in (("a", 1), ("b", 2))]
    assert drawn(around, FakePipeline(together=2)).calls == [["a", "b"]]
    for job, done in zip(jobs, ended(around, jobs), strict=True):
        assert (done.status, done.attempt) == (Status.SUCCEEDED, 1)
        assert [image.seed for image in done.images] == [job.scene.seed]
        assert done.images[0].artifact.startswith(f"jobs/{job.id}/a1/")


def test_by_default_each_is_drawn_alone(around: Surroundings) -> None:
    line(around, "a", "b")
    assert drawn(around, FakePipeline()).calls == [["a"], ["b"]]


def test_what_the_pipeline_can_draw_at_once_is_asked_each_time(around: Surroundings) -> None:
    class StepsDown(FakePipeline):
        def draw(
            self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
        ) -> list[Drawn | Exception]:
            outcomes = super().draw(drawings, ahead=ahead)
            self.together = 1
            return outcomes

    line(around, "a", "b", "c", "d")
    assert drawn(around, StepsDown(together=2)).calls == [["a", "b"], ["c"], ["d"]]


def test_order_and_fairness_are_what_they_are_one_by_one(around: Surroundings) -> None:
    for tenant in ("ada", "bob"):
        for number, width in ((1, 64), (2, 128), (3, 128)):
            scene = a_scene(f"{tenant} {number}", width=width)
            around.queued(tenant=tenant, scene=scene)
    assert drawn(around, FakePipeline(together=4)).calls == [
        ["ada 1", "bob 1"],
        ["ada 2", "bob 2", "ada 3", "bob 3"],
    ]


def test_nobody_waits_for_a_second_one(around: Surroundings) -> None:
    [job] = line(around, "a")
    assert drawn(around, FakePipeline(together=4)).calls == [["a"]]
    assert around.jobs.get(job.id).status is Status.SUCCEEDED


def test_what_comes_next_leaves_out_what_is_drawn(around: Surroundings) -> None:
    line(around, "a", "b", "c")
    assert drawn(around, FakePipeline(together=2)).ahead == [["c"], []]


# --- each for itself ----------------------------------------------------------------------------


def test_one_that_is_canceled_ends_at_once_while_the_other_is_drawn(around: Surroundings) -> None:
    first, second = line(around, "a", "b", steps=40)

    def at_step(scene: Scene, step: int) -> None:
        if scene == first.scene and step == 2:
            around.jobs.update(first.id, lambda job, now: cancel(job, now, terms=TERMS))
        if scene == second.scene and step == 39:
            until(lambda: around.jobs.get(first.id).status is Status.CANCELED)
        if scene == first.scene and step > 2:
            threading.Event().wait(0.1)  # it is heard within half a second

    drawn(around, FakePipeline(at_step=at_step, together=2))
    assert around.jobs.get(first.id).lease is None
    done = around.jobs.get(second.id)
    assert (done.status, done.attempt) == (Status.SUCCEEDED, 1)


def test_one_whose_lease_was_stolen_stops_and_the_other_goes_on(around: Surroundings) -> None:
    first, second = line(around, "a", "b", steps=40)
    steps: list[int] = []

    def at_step(scene: Scene, step: int) -> None:
        if scene == first.scene:
            steps.append(step)
            if step == 2:
                around.jobs.update(first.id, stolen)
            threading.Event().wait(0.05)

    drawn(around, FakePipeline(at_step=at_step, together=2))
    assert len(steps) < 40
    lost, done = ended(around, [first, second])
    assert lost.lease is not None
    assert (lost.lease.holder, lost.status, lost.attempt) == ("w2", Status.RUNNING, 2)
    assert done.status is Status.SUCCEEDED


def test_an_error_of_one_is_its_own(around: Surroundings) -> None:
    def at_step(scene: Scene, step: int) -> None:
        if scene.prompt == "a":
            raise InvalidReference("no picture")

    failed, done = _both(around, FakePipeline(at_step=at_step, together=2))
    assert failed.error is not None
    assert (failed.status, failed.error.code) == (Status.FAILED, ErrorCode.INVALID_REFERENCE)
    assert (done.status, done.failures) == (Status.SUCCEEDED, 0)


def _both(around: Surroundings, pipeline: FakePipeline) -> list[Job]:
    jobs = line(around, "a", "b")
    drawn(around, pipeline)
    assert pipeline.calls == [["a", "b"]]
    return ended(around, jobs)


def test_one_for_other_weights_is_refused_and_the_other_drawn(around: Surroundings) -> None:
    other = Weights(label="tiny", sha256=sha("other"))
    [stale], [job] = line(around, "a", weights=other), line(around, "b")
    assert drawn(around, FakePipeline(together=2)).calls == [["b"]]
    refused, done = ended(around, [stale, job])
    assert refused.error is not None
    assert refused.error.code is ErrorCode.WEIGHTS_CHANGED
    assert done.status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OutOfMemory("no room"), Status.FAILED, ErrorCode.OUT_OF_MEMORY),
        (RuntimeError("who knows"), Status.QUEUED, ErrorCode.INTERNAL),
    ],
)
def test_what_concerns_the_device_concerns_all(
    around: Surroundings, error: Exception, status: Status, code: ErrorCode
) -> None:
    def at_step(scene: Scene, step: int) -> None:
        raise error

    for job in _both(around, FakePipeline(at_step=at_step, together=2)):
        assert job.error is not None
        assert (job.status, job.error.code, job.failures) == (status, code, 1)


def test_after_that_each_is_drawn_alone(around: Surroundings) -> None:
    jobs = line(around, "a", "b", "c")
    for job in jobs[:2]:
        around.jobs.update(job.id, lambda job, now: replace(job, failures=1))
    assert drawn(around, FakePipeline(together=3)).calls == [["a"], ["b"], ["c"]]


def test_all_are_given_back_when_the_worker_must_stop(
    around: Surroundings, in_background: Background
) -> None:
    gate, stopping = Gate(), threading.Event()
    jobs = line(around, "a", "b")
    pipeline = FakePipeline(at_step=gate, together=2)
    desk = around.desk(around.workplace(pipeline=pipeline, stopping=stopping))
    drawing = in_background(desk.draw_due)
    assert gate.reached.wait(20)
    assert set(desk.hands.drawing) == {job.id for job in jobs}
    stopping.set()
    desk.hands.drain(step=0.05, last_moment=20.0)
    freed = ended(around, jobs)
    assert {(job.status, job.timeline[-1].event) for job in freed} == {
        (Status.QUEUED, Event.RELEASED)
    }
    gate.opened.set()
    drawing.join(20)
    assert ended(around, jobs) == freed


def test_a_stop_at_a_step_gives_all_back(around: Surroundings) -> None:
    stopping = threading.Event()

    def at_step(scene: Scene, step: int) -> None:
        if step == 2:
            stopping.set()

    jobs = line(around, "a", "b")
    drawn(around, FakePipeline(at_step=at_step, together=2), stopping=stopping)
    assert {(job.status, job.interruptions) for job in ended(around, jobs)} == {(Status.QUEUED, 1)}


# --- claims -------------------------------------------------------------------------------------


class Claims:
    """A store where the claim of one job goes as the test says."""

    def __init__(self, around: Surroundings, job: Job, instead: Callable[[], object]) -> None:
        self._around, self._job, self._instead = around, job, instead

    def __getattr__(self, name: str) -> object:
        return getattr(self._around.jobs, name)

    def update(self, id: str, change: Callable[..., Job]) -> Job:
        if id == self._job.id and getattr(change, "func", None) is claim:
            self._instead()
        return self._around.jobs.update(id, change)


def test_one_that_another_worker_took_is_left_to_it(around: Surroundings) -> None:
    jobs = line(around, "a", "b", "c")

    def take() -> None:
        if around.jobs.get(jobs[1].id).status is Status.QUEUED:
            around.jobs.update(
                jobs[1].id, lambda job, now: claim(job, now, holder="w2", terms=TERMS)
            )

    at = Claims(around, jobs[1], take)
    assert drawn(around, FakePipeline(together=3), jobs=at).calls == [["a", "c"]]
    assert around.jobs.get(jobs[1].id).status is Status.RUNNING


def test_what_is_claimed_is_drawn_though_the_store_went_away(around: Surroundings) -> None:
    jobs = line(around, "a", "b")
    away = [True]

    def fail() -> None:
        if away and away.pop():
            raise StoreUnavailable("away")

    pipeline = drawn(around, FakePipeline(together=2), jobs=Claims(around, jobs[1], fail))
    assert pipeline.calls == [["a"], ["b"]]
    assert {job.status for job in ended(around, jobs)} == {Status.SUCCEEDED}


# --- figures, and the watch over steps ----------------------------------------------------------


def test_the_device_is_charged_once(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heartbeat, "seconds", property(lambda beat: 8.0))
    jobs = [around.queued(scene=a_scene(count=count)) for count in (1, 3)]
    around.desk(around.workplace(pipeline=FakePipeline(together=4))).draw_due()
    assert [job.metrics.gpu_seconds for job in ended(around, jobs)] == [2.0, 6.0]


def test_the_rate_is_of_all_that_is_drawn_at_once(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10_000, 10))

    class Clock:
        """Ten seconds pass between two looks of the desk."""

        @staticmethod
        def monotonic() -> float:
            return float(next(seconds))

    monkeypatch.setattr("worker.desk.time", Clock)
    jobs = line(around, "a", "b")
    rates: list[float | None] = []
    around.desk(
        around.workplace(pipeline=FakePipeline(together=2)),
        changed=lambda job, rate: rates.append(rate),
    ).draw_due()
    assert rates[-1] == pytest.approx(10 / (2 * jobs[0].scene.megapixel_steps))


def test_who_waits_for_the_others_of_a_call_is_not_hung(around: Surroundings) -> None:
    class OneByOne(FakePipeline):
        """Has no room for both at once."""

        def draw(
            self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
        ) -> list[Drawn | Exception]:
            return [outcome for each in drawings for outcome in super(OneByOne, self).draw([each])]

    def at_step(scene: Scene, step: int) -> None:
        threading.Event().wait(0.1)

    pace = replace(PACE, step_timeout=0.5)
    jobs = line(around, "a", "b", steps=10)
    drawn(around, OneByOne(at_step=at_step, together=2), pace=pace)
    assert around.hung == []
    assert {job.status for job in ended(around, jobs)} == {Status.SUCCEEDED}
