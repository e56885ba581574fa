"""The saver: when it takes latents, that no step waits for it, and that the newest go first."""

from dataclasses import replace
from typing import Any

import pytest

from shared.jobs import Job
from shared.vocabulary import Checkpoint, Latents
from tests.builders import a_scene
from tests.worker.conftest import PACE, Surroundings, value
from tests.worker.test_checkpoints import SlowShelf
from worker.heartbeat import Pace
from worker.measures import Measures
from worker.saver import Saver

EVERY_STEP = replace(PACE, save_steps=1, progress=0.0)


def a_saver(around: Surroundings, job: Job, **what_matters: Any) -> Saver:
    assert job.lease is not None
    given: dict[str, Any] = {
        "jobs": around.jobs,
        "artifacts": around.artifacts,
        "pace": EVERY_STEP,
        "measures": Measures(),
        "saved": lambda checkpoint: None,
    }
    return Saver(job, job.lease, **given | what_matters)


def a_long_job(around: Surroundings) -> Job:
    return around.claimed(scene=a_scene(steps=10))


@pytest.mark.parametrize(
    ("pace", "taken"),
    [
        (PACE, []),
        (replace(PACE, save_seconds=3600.0), []),
        (replace(PACE, save_seconds=1e-9), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (EVERY_STEP, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (replace(EVERY_STEP, save_steps=3), [3, 6, 9]),
        (replace(EVERY_STEP, save_steps=4, save_seconds=3600.0), [4, 8]),
        (replace(EVERY_STEP, save_steps=4, save_seconds=1e-9), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (replace(EVERY_STEP, progress=3600.0), []),
    ],
    ids=[
        "never", "by time, not yet", "by time", "at every step", "at every third", "not yet, but "
        "at every fourth", "both", "at every step, but not more often than progress is written",
    ],
)  # fmt: skip
def test_latents_are_taken_at_the_pace_that_is_set(
    around: Surroundings, pace: Pace, taken: list[int]
) -> None:
    saver, made = a_saver(around, a_long_job(around), pace=pace), list[int]()
    for step in range(1, 11):
        saver.stepped(step, lambda step=step: made.append(step) or b"latents")  # type: ignore[misc]
    assert made == taken, "and never after the last step, which only wants decoding"


def test_images_that_take_a_step_together_are_counted_together(around: Surroundings) -> None:
    saver, made = a_saver(around, a_long_job(around), pace=replace(EVERY_STEP, save_steps=3)), []
    for step in (2, 4, 6, 8):
        saver.stepped(step, lambda step=step: made.append(step) or b"latents")  # type: ignore[misc]
    assert made == [4, 8]


def test_what_is_taken_at_the_end_needs_no_pace_but_one(around: Surroundings) -> None:
    made: list[str] = []
    for name, pace in {"never": PACE, "by time": replace(PACE, save_seconds=3600.0)}.items():
        saver = a_saver(around, a_long_job(around), pace=pace)
        saver.take(10, lambda name=name: made.append(name) or b"latents")  # type: ignore[misc]
    assert made == ["by time"]


def test_nothing_earlier_than_the_jobs_checkpoint_is_taken(around: Surroundings) -> None:
    job = a_long_job(around)
    had = Checkpoint(artifact="a", generation=1, attempt=1, step=5, recipe=job.recipe)
    saver, made = a_saver(around, replace(job, checkpoint=had)), list[int]()
    for step in (4, 5, 6):
        saver.take(step, lambda step=step: made.append(step) or b"latents")  # type: ignore[misc]
    assert made == [6]


def test_what_the_pipeline_raises_while_it_writes_comes_through(around: Surroundings) -> None:
    def save() -> bytes:
        raise RuntimeError("no numbers")

    saver = a_saver(around, a_long_job(around))
    with pytest.raises(RuntimeError, match="no numbers"):
        saver.stepped(1, save)


def test_a_slow_store_gets_the_first_and_then_the_newest(around: Surroundings) -> None:
    slow, told = SlowShelf(around), list[Checkpoint | None]()
    job = a_long_job(around)
    with a_saver(around, job, artifacts=slow, saved=told.append) as saver:
        saver.take(1, lambda: b"one")
        assert slow.reached.wait(20)
        for step in (2, 3, 4):
            saver.take(step, lambda step=step: f"{step}".encode())  # type: ignore[misc]
        assert saver.stored is None, "no step has waited for it"
        slow.opened.set()
        last = saver.settle(20)
    assert last is not None
    assert [checkpoint.step for checkpoint in told if checkpoint] == [1, 4]
    assert around.artifacts.get(last.artifact, last.generation) == b"4"
    stored = around.jobs.get(job.id).latents
    assert stored == tuple(Latents(attempt=1, step=step) for step in (1, 4))


def test_the_name_is_announced_before_the_bytes_are_stored(around: Surroundings) -> None:
    slow, job = SlowShelf(around), a_long_job(around)
    with a_saver(around, job, artifacts=slow) as saver:
        saver.take(3, lambda: b"three")
        assert slow.reached.wait(20)
        assert around.jobs.get(job.id).latents == (Latents(attempt=1, step=3),)
        slow.opened.set()
        assert saver.settle(20)


def test_after_its_end_it_stores_nothing_and_nobody_waits_for_it(around: Surroundings) -> None:
    slow, told = SlowShelf(around), list[Checkpoint | None]()
    with a_saver(around, a_long_job(around), artifacts=slow, saved=told.append) as saver:
        saver.take(1, lambda: b"one")
        assert slow.reached.wait(20)
        saver.take(2, lambda: b"two")
    assert saver.settle(20) is None
    slow.opened.set()
    saver.take(3, lambda: b"three")
    saver._thread.join(20)
    assert [checkpoint.step for checkpoint in told if checkpoint] == [1], "it was on its way"


def test_what_arrives_after_the_drawing_began_again_is_no_checkpoint(
    around: Surroundings,
) -> None:
    slow, told, job = SlowShelf(around), list[Checkpoint | None](), a_long_job(around)
    with a_saver(around, job, artifacts=slow, saved=told.append) as saver:
        saver.take(5, lambda: b"five")
        assert slow.reached.wait(20)
        saver.begin_again()
        saver.take(2, lambda: b"two")
        slow.opened.set()
        last = saver.settle(20)
    assert last is not None
    assert last.step == 2
    assert [checkpoint and checkpoint.step for checkpoint in told] == [None, 2]


def test_every_outcome_is_counted(around: Surroundings) -> None:
    measures, job = Measures(), a_long_job(around)
    with a_saver(around, job, measures=measures) as saver:
        saver.take(1, lambda: b"one")
        saver.settle(20)
        around.artifacts.put(f"jobs/{job.id}/a1/latents-2", b"others", content_type="a/b")
        saver.take(2, lambda: b"two")
        saver.settle(20)
        saver.take(3, lambda: b"three")
        assert saver.settle(20)
    counts = [
        value(measures, "illo_checkpoints_total", outcome=outcome)
        for outcome in ("stored", "failed")
    ]
    assert counts == [2, 1], "a name that is taken costs that checkpoint and no other"
    assert value(measures, "illo_stored_bytes_total", kind="latents") == len(b"onethree")
