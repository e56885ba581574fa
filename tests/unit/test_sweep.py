"""The sweep: it finishes what was left undone, in pages, and twice at once does nothing twice."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.batch_edit import cancel_batch
from api.expand import BATCHES_PER_SWEEP, PAGE, PAGES_PER_SWEEP, expand, write_plan
from api.sweep import SweepReport, run_sweeps, sweep_once
from api.tidy import leftovers
from shared.batches import Batch, BatchScene, SceneChange, expansion_done
from shared.errors import (
    ArtifactStoreUnavailable,
    JobFinal,
    JobNotFound,
    StoreError,
    StoreUnavailable,
)
from shared.jobs import CONFIRMED_WAKE, TOMBSTONE_FOR, WAKE_BACKOFF, Job, cancel, claim, delete
from shared.scenes import ImageFormat
from shared.vocabulary import ErrorCode, Event, Priority, Status
from shared.wiring import Backends
from shared.workers import pause
from tests.builders import (
    NOW,
    TERMS,
    a_batch,
    a_batch_scene,
    a_job,
    a_lease,
    a_reference,
    a_scene,
    a_take,
    an_asset,
    an_expired_lease,
)
from tests.http.conftest import Away, House, a_house

QUEUED, RUNNING, SUCCEEDED = Status.QUEUED, Status.RUNNING, Status.SUCCEEDED
TENANT = "local"
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return a_house(tmp_path)


def sweep(house: House, backends: Backends | None = None) -> SweepReport:
    return sweep_once(backends or house.backends, house.settings)


def stored(house: House, job: Job) -> Job:
    return house.backends.jobs.get(job.id)


def have_batch(house: House, count: int, **what_matters: Any) -> Batch:
    """An accepted batch of so many scenes, none of which has been expanded."""
    usual: dict[str, Any] = {"tenant": TENANT, "scene_count": count}
    batch = a_batch(**usual | what_matters)
    scenes = [a_batch_scene(batch, f"p{i:05}", position=i) for i in range(count)]
    put = house.backends.artifacts.put(batch.artifact, write_plan(scenes), content_type="x")
    batch = replace(batch, generation=put.generation)
    house.backends.batches.create(batch)
    return batch


class Failing:
    """A port that works until the nth call of one of its methods, and before or after it acts."""

    def __init__(self, port: Any, method: str, nth: int, *, acts: bool) -> None:
        self._port, self._method, self._left, self._acts = port, method, nth, acts

    def __getattr__(self, name: str) -> Any:
        real: Callable[..., Any] = getattr(self._port, name)
        if name != self._method:
            return real

        def call(*given: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left:
                return real(*given, **named)
            if self._acts:
                real(*given, **named)
            raise StoreUnavailable("killed here")

        return call


def at_once(act: Callable[[], object], people: int = 2) -> None:
    """Let several do the same at the same moment; what one raises comes through."""
    barrier, raised = threading.Barrier(people), list[BaseException]()

    def begin() -> None:
        barrier.wait(10)
        try:
            act()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=begin) for _ in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if raised:
        raise raised[0]


# --- wake-ups ---------------------------------------------------------------------------------


def test_there_is_nothing_to_do_in_a_tidy_house(house: House) -> None:
    house.have(wake_at=NOW + MOMENT)
    assert sweep(house) == SweepReport()
    assert house.publisher.wakes == []


def test_a_job_whose_message_was_lost_is_woken_with_growing_patience(house: House) -> None:
    job = house.have(wake_at=NOW)
    assert sweep(house).woken == 1
    assert [wake.job for wake in house.publisher.wakes] == [job.id]
    assert stored(house, job).wake_at == NOW + WAKE_BACKOFF[0]
    assert sweep(house).woken == 0
    house.clock.advance(WAKE_BACKOFF[0])
    assert sweep(house).woken == 1
    assert stored(house, job).wake_at == NOW + WAKE_BACKOFF[0] + WAKE_BACKOFF[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_sweep_sends_two_messages_for_each_worker_however_many_jobs_wait(
    house: House, workers: int
) -> None:
    house = house.with_settings(workers=workers)
    for _ in range(10):
        house.have(wake_at=NOW)
    for i in range(3):
        house.have(status=RUNNING, lease=an_expired_lease(f"w{i}"), wake_at=NOW)
    assert sweep(house).woken == 2 * workers
    assert len(house.publisher.wakes) == 2 * workers


def test_the_jobs_that_would_be_drawn_first_are_woken(house: House) -> None:
    house.have(wake_at=NOW)
    urgent = [house.have(wake_at=NOW, priority=Priority.HIGH) for _ in range(2)]
    sweep(house)
    assert {wake.job for wake in house.publisher.wakes} == {job.id for job in urgent}


def test_nothing_is_published_while_the_queue_is_held_and_the_sweep_says_why(house: House) -> None:
    job = house.have(wake_at=NOW)
    house.backends.workers.update_control(lambda c, now: pause(c, now, reason="tea"))
    report = sweep(house)
    assert (report.woken, report.held) == (0, "the queue is paused: tea")
    assert house.publisher.wakes == []
    assert stored(house, job) == job


def test_a_publish_that_fails_is_tried_again_later(house: House) -> None:
    job = house.have(wake_at=NOW)
    house.publisher.down = True
    assert sweep(house).woken == 0
    house.publisher.down = False
    house.clock.advance(WAKE_BACKOFF[0])
    assert sweep(house).woken == 1
    assert [wake.job for wake in house.publisher.wakes] == [job.id]


# --- dead workers and what has run out --------------------------------------------------------


@pytest.mark.parametrize(("late", "woken"), [(timedelta(), 0), (MOMENT, 1)])
def test_a_silent_workers_job_is_offered_to_another_after_lease_and_grace(
    house: House, late: timedelta, woken: int
) -> None:
    lease = a_lease(expires_at=NOW - TERMS.steal_grace - late)
    job = house.have(status=RUNNING, lease=lease, wake_at=NOW)
    assert sweep(house).woken == woken
    assert stored(house, job).lease == lease
    assert sweep(house).woken == 0, "the next message waits for the backoff"


def test_a_job_that_has_cost_its_last_worker_fails(house: House) -> None:
    job = house.have(status=RUNNING, lease=an_expired_lease(), failures=2)
    assert sweep(house).ended == 1
    ended = stored(house, job)
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.WORKER_LOST)
    assert house.publisher.wakes == []


def test_a_cancel_wish_that_no_worker_heard_is_granted(house: House) -> None:
    job = house.have(status=RUNNING, lease=an_expired_lease(), cancel_requested_at=NOW)
    assert sweep(house).ended == 1
    assert stored(house, job).status is Status.CANCELED


@pytest.mark.parametrize(("late", "ended"), [(timedelta(), 0), (MOMENT, 1)])
def test_what_waited_too_long_expires(house: House, late: timedelta, ended: int) -> None:
    job = house.have(created_at=NOW - TERMS.max_queued - late, wake_at=NOW + TERMS.lease)
    assert sweep(house).ended == ended
    assert (stored(house, job).status is Status.FAILED) == bool(ended)


@pytest.mark.parametrize(("late", "ended"), [(timedelta(), 0), (MOMENT, 1)])
def test_what_runs_too_long_times_out_though_its_worker_lives(
    house: House, late: timedelta, ended: int
) -> None:
    job = house.have(status=RUNNING, claimed_at=NOW - TERMS.max_runtime - late)
    assert sweep(house).ended == ended
    assert (stored(house, job).status is Status.FAILED) == bool(ended)


def test_a_worker_that_dies_right_after_its_claim_is_missed_as_soon_as_its_lease_is_over(
    house: House,
) -> None:
    job = house.have(wake_at=NOW + CONFIRMED_WAKE)
    house.backends.jobs.update(job.id, partial(claim, holder="w", terms=TERMS))
    house.clock.advance(TERMS.lease + TERMS.steal_grace)
    assert sweep(house).woken == 0
    house.clock.advance(MOMENT)
    assert sweep(house).woken == 1


def test_two_sweeps_that_find_the_same_job_send_one_message(house: House) -> None:
    house.have(wake_at=NOW)
    found = threading.Barrier(2)
    real = house.backends.jobs.wakeable

    def wakeable(limit: int) -> list[Job]:
        jobs = real(limit)
        found.wait(10)
        return jobs

    backends = replace(house.backends, jobs=Overlay(house.backends.jobs, wakeable=wakeable))
    at_once(lambda: sweep(house, backends))
    assert len(house.publisher.wakes) == 1


def test_two_sweeps_at_once_do_nothing_twice(house: House) -> None:
    waiting = [house.have(wake_at=NOW) for _ in range(2)]
    lost = house.have(status=RUNNING, lease=an_expired_lease(), failures=2)
    batch = have_batch(house, PAGE + 5)
    at_once(lambda: sweep(house))
    woken = [wake.job for wake in house.publisher.wakes if wake.job in {j.id for j in waiting}]
    assert sorted(woken) == sorted(job.id for job in waiting)
    assert [moment.event for moment in stored(house, lost).timeline] == [Event.FAILED]
    assert house.backends.jobs.batch_counts(batch.id) == {QUEUED: PAGE + 5}
    assert house.backends.batches.get(batch.id).expanded == PAGE + 5


# --- expansion --------------------------------------------------------------------------------

KILLS = [
    ("batches", "add_scenes", 1),
    ("batches", "add_scenes", 2),
    ("batches", "get", 1),
    ("batches", "update", 1),
    ("batches", "update", 2),
    ("artifacts", "get", 1),
]


@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("port", "method", "nth"), KILLS)
def test_an_expansion_killed_anywhere_is_finished_by_the_next_sweep(
    house: House, port: str, method: str, nth: int, acts: bool
) -> None:
    batch = have_batch(house, 2 * PAGE + 7)
    failing = Failing(getattr(house.backends, port), method, nth, acts=acts)
    with pytest.raises(StoreUnavailable):
        expand(replace(house.backends, **{port: failing}), house.settings, batch, pages=9)
    sweep(house)
    assert expansion_done(house.backends.batches.get(batch.id))
    assert house.backends.jobs.batch_counts(batch.id) == {QUEUED: 2 * PAGE + 7}
    scenes = house.backends.batches.scenes(batch.id, after=PAGE - 1, limit=1)
    assert [scene.position for scene in scenes] == [PAGE]
    assert len(house.backends.jobs.takes(batch.id)) == 2 * PAGE + 7


def test_jobs_keep_the_order_of_their_scenes_and_what_the_batch_says(house: House) -> None:
    batch = have_batch(house, 30, priority=Priority.LOW, metadata={"book": "42"})
    sweep(house)
    due = house.backends.jobs.claimable(per_tenant=30)
    assert [job.scene_key for job in due] == [f"p{i:05}" for i in range(30)]
    assert {(job.priority, job.batch, job.take) for job in due} == {(Priority.LOW, batch.id, 1)}
    assert all(job.metadata == {"book": "42"} for job in due)


def test_a_sweep_stops_at_a_number_of_pages_and_asks_for_another(house: House) -> None:
    batch = have_batch(house, PAGES_PER_SWEEP * PAGE + 1)
    second = have_batch(house, 1, created_at=NOW + MOMENT)
    report = sweep(house)
    assert (report.expanded, report.unfinished) == (PAGES_PER_SWEEP * PAGE, True)
    report = sweep(house)
    assert (report.expanded, report.unfinished) == (2, False)
    assert sweep(house).expanded == 0
    counts = house.backends.jobs.batch_counts
    assert (counts(batch.id)[QUEUED], counts(second.id)[QUEUED]) == (PAGES_PER_SWEEP * PAGE + 1, 1)


def test_a_batch_whose_scenes_are_lost_does_not_hold_up_the_others(house: House) -> None:
    lost = have_batch(house, 1)
    house.backends.artifacts.delete(lost.artifact)
    good = have_batch(house, 1, created_at=NOW + MOMENT)
    assert sweep(house).expanded == 1
    assert expansion_done(house.backends.batches.get(good.id))


def test_a_canceled_batch_is_expanded_to_canceled_jobs(house: House) -> None:
    batch = have_batch(house, PAGE + 1)
    cancel_batch_of(house, batch)
    sweep(house)
    assert house.backends.jobs.batch_counts(batch.id) == {Status.CANCELED: PAGE + 1}
    assert house.publisher.wakes == []


def test_a_page_that_was_being_written_while_its_batch_was_canceled_is_canceled(
    house: House,
) -> None:
    batch = have_batch(house, PAGE + 1)
    real = house.backends.batches.add_scenes

    def add_scenes(scenes: list[BatchScene], jobs: list[Job]) -> None:
        # the cancel comes after this batch was read and before its first jobs are there
        if scenes[0].position == 0:
            cancel_batch_of(house, batch)
        real(scenes, jobs)

    late = Overlay(house.backends.batches, add_scenes=add_scenes)
    expand(replace(house.backends, batches=late), house.settings, batch, pages=9)  # type: ignore[arg-type]
    assert house.backends.jobs.batch_counts(batch.id) == {Status.CANCELED: PAGE + 1}


class Overlay:
    """A port with some of its methods replaced."""

    def __init__(self, port: Any, **methods: Callable[..., Any]) -> None:
        self._port = port
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._port, name)


class ServiceOf:
    """As much of a Service as canceling a batch needs."""

    def __init__(self, house: House) -> None:
        self.backends, self.settings = house.backends, house.settings


def cancel_batch_of(house: House, batch: Batch) -> None:
    cancel_batch(batch, ServiceOf(house))  # type: ignore[arg-type]


@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_cancel_killed_anywhere_is_finished_by_the_next_sweep(
    house: House, nth: int, acts: bool
) -> None:
    batch = have_batch(house, 2 * PAGE + 7)
    expand(house.backends, house.settings, batch, pages=9)
    failing = Failing(house.backends.jobs, "update_all", nth, acts=acts)
    broken = ServiceOf(house)
    broken.backends = replace(house.backends, jobs=failing)  # type: ignore[arg-type]
    if nth < 3:  # two pages of 200 cover the queued ones; the third call is for the running
        with pytest.raises(StoreUnavailable):
            cancel_batch(batch, broken)  # type: ignore[arg-type]
    else:
        with suppress(StoreUnavailable):
            cancel_batch(batch, broken)  # type: ignore[arg-type]
    sweep(house)
    assert house.backends.jobs.batch_counts(batch.id) == {Status.CANCELED: 2 * PAGE + 7}
    assert house.backends.batches.unfinished(9) == []


# --- faults -----------------------------------------------------------------------------------

FAULTS = [StoreError("refused"), StoreUnavailable("never answered"), JobFinal("ended")]


def spoiling(
    house: House, port: str, method: str, ids: set[str], fault: Exception
) -> tuple[Backends, list[str]]:
    """Backends of which a method raises whenever its first argument is about one of these ids."""
    real: Callable[..., Any] = getattr(getattr(house.backends, port), method)
    asked = list[str]()

    def spoiled(first: Any, *given: Any, **named: Any) -> Any:
        asked.append(repr(first))
        if any(id in repr(first) for id in ids):
            raise fault
        return real(first, *given, **named)

    overlay = Overlay(getattr(house.backends, port), **{method: spoiled})
    return replace(house.backends, **{port: overlay}), asked


def logged(caplog: pytest.LogCaptureFixture, event: str, name: str) -> list[str]:
    return [getattr(record, name) for record in caplog.records if record.message == event]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_of_one_batch_holds_up_no_other_and_no_other_duty(
    house: House, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    bad, good = have_batch(house, 1), have_batch(house, 1, created_at=NOW + MOMENT)
    for batch in (bad, good):
        expand(house.backends, house.settings, batch, pages=9)
        house.backends.batches.update(batch.id, lambda b, now: replace(b, canceling=True))
    drawn = have_drawn(house, cleanup_due=NOW)
    [take] = house.backends.jobs.takes(bad.id)
    backends, _ = spoiling(house, "jobs", "update_all", {take.job}, fault)
    assert sweep(house, backends).cleaned == 1
    assert [batch.id for batch in house.backends.batches.unfinished(9)] == [bad.id]
    assert not is_there(house, drawn, 1)
    assert logged(caplog, "batch_not_finished", "batch_id") == [bad.id]
    sweep(house)
    assert house.backends.batches.unfinished(9) == []


def test_more_batches_with_a_fault_than_a_sweep_finishes_hold_up_no_other(house: House) -> None:
    bad = {have_batch(house, 1).id for _ in range(BATCHES_PER_SWEEP + 1)}
    good = have_batch(house, 1, created_at=NOW + MOMENT)
    backends, _ = spoiling(house, "batches", "add_scenes", bad, StoreError("refused"))
    report = sweep(house, backends)
    assert (report.expanded, report.unfinished) == (1, False)
    assert {batch.id for batch in house.backends.batches.unfinished(99)} == bad
    assert expansion_done(house.backends.batches.get(good.id))


def test_a_batch_whose_scenes_are_lost_is_canceled_all_the_same(house: House) -> None:
    batch = have_batch(house, 2 * PAGE)
    batch = expand(house.backends, house.settings, batch, pages=1)
    house.backends.artifacts.delete(batch.artifact)
    house.backends.batches.update(
        batch.id, lambda b, now: replace(b, canceled=True, canceling=True)
    )
    report = sweep(house)
    assert (report.expanded, report.unfinished) == (0, False)
    assert house.backends.jobs.batch_counts(batch.id) == {Status.CANCELED: PAGE}
    assert not house.backends.batches.get(batch.id).canceling


def too_late(house: House) -> Job:
    return house.have(created_at=NOW - TERMS.max_queued - MOMENT, wake_at=NOW + TERMS.lease)


def retired(house: House) -> Job:
    return house.have(status=SUCCEEDED, expire_at=NOW, cleanup_due=None)


def to_be_woken(house: House) -> Job:
    return house.have(wake_at=NOW)


def to_be_tidied(house: House) -> Job:
    return have_drawn(house, cleanup_due=NOW)


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize(
    ("there_is", "event", "did"),
    [
        (too_late, "job_not_swept", "ended"),
        (to_be_woken, "job_not_swept", "woken"),
        (to_be_tidied, "job_not_tidied", "cleaned"),
        (retired, "job_not_retired", "retired"),
    ],
)
def test_a_fault_of_one_job_holds_up_no_other(
    house: House,
    caplog: pytest.LogCaptureFixture,
    there_is: Callable[[House], Job],
    event: str,
    did: str,
    fault: Exception,
) -> None:
    jobs = [there_is(house) for _ in range(3)]
    backends, asked = spoiling(house, "jobs", "update", {jobs[0].id}, fault)
    house = house.with_settings(workers=3)
    assert getattr(sweep(house, backends), did) == 2
    assert len(asked) >= 3
    assert logged(caplog, event, "job_id") == [jobs[0].id]
    assert getattr(sweep(house), did) == 1


def test_a_fault_of_one_upload_holds_up_no_other(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = an_asset("bad", expire_at=NOW), an_asset("good", expire_at=NOW)
    for asset in (bad, good):
        house.backends.assets.save(asset)
    backends, _ = spoiling(house, "jobs", "needs_asset", {bad.id}, StoreError("refused"))
    assert sweep(house, backends).uploads == 1
    assert logged(caplog, "upload_not_dropped", "asset_id") == [bad.id]
    assert sweep(house).uploads == 1


LISTINGS = [
    ("jobs", "overdue", "end"),
    ("jobs", "silent", "end"),
    ("jobs", "wakeable", "wake"),
    ("batches", "unfinished", "finish_batches"),
    ("jobs", "retired", "retire"),
    ("jobs", "untidy", "clean_up"),
    ("assets", "retired", "drop_uploads"),
]


@pytest.mark.parametrize(("port", "listing", "duty"), LISTINGS)
def test_a_list_that_cannot_be_read_holds_up_no_other_duty(
    house: House, caplog: pytest.LogCaptureFixture, port: str, listing: str, duty: str
) -> None:
    too_late(house), retired(house), to_be_woken(house), to_be_tidied(house)
    have_batch(house, 1)
    house.backends.assets.save(an_asset(expire_at=NOW))
    backends, _ = spoiling(house, port, listing, {""}, StoreError("a stored Job cannot be read"))
    report = sweep(house, backends)
    did = {
        "end": report.ended,
        "wake": report.woken,
        "finish_batches": report.expanded,
        "retire": report.retired,
        "clean_up": report.cleaned,
        "drop_uploads": report.uploads,
    }
    assert logged(caplog, "duty_failed", "duty")[0] == duty
    undone = {duty, "wake"} if listing == "silent" else {duty}
    assert {name for name, count in did.items() if not count} == undone


@pytest.mark.parametrize(("port", "listing", "duty"), LISTINGS)
def test_a_store_that_is_away_ends_the_sweep(
    house: House, port: str, listing: str, duty: str
) -> None:
    backends, _ = spoiling(house, port, listing, {""}, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        sweep(house, backends)


def test_a_store_that_goes_away_meanwhile_is_not_asked_for_every_job(house: House) -> None:
    jobs = {too_late(house).id for _ in range(9)}
    backends, asked = spoiling(house, "jobs", "update", jobs, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        sweep(house, replace(backends, workers=AwayButForTheTime(house)))  # type: ignore[arg-type]
    assert len(asked) == 1


class AwayButForTheTime(Away):
    """A store that went away right after it told the time."""

    def __init__(self, house: House) -> None:
        self.now = house.clock.now


# --- tidying ----------------------------------------------------------------------------------


def names(*attempts: int, job: Job, count: int = 2, ending: str = "webp") -> list[str]:
    return [f"jobs/{job.id}/a{a}/{i}.{ending}" for a in attempts for i in range(count)]


def test_leftovers_are_the_images_of_all_attempts_but_the_committed_one() -> None:
    scene = a_scene(count=2, format=ImageFormat.WEBP)
    job = a_job(scene=scene, status=SUCCEEDED, attempt=3, images_attempt=2)
    assert list(leftovers(job)) == names(1, 3, job=job)
    failed = replace(job, status=Status.FAILED, images_attempt=None)
    assert list(leftovers(failed)) == names(1, 2, 3, job=job)
    assert list(leftovers(replace(job, deleted_at=NOW))) == names(1, 2, 3, job=job)


def have_images(house: House, job: Job, *attempts: int) -> None:
    for name in names(*attempts, job=job, count=1, ending="png"):
        house.backends.artifacts.put(name, name.encode(), content_type="image/png")


def exists(house: House, name: str) -> bool:
    """Whether an artifact of this name has bytes, of whatever generation."""
    stem, _, ending = name.rpartition(".")
    return any((house.settings.data / "artifacts").glob(f"{stem}.g*.{ending}"))


def is_there(house: House, job: Job, attempt: int) -> bool:
    [name] = names(attempt, job=job, count=1, ending="png")
    return exists(house, name)


def have_drawn(house: House, **what_matters: Any) -> Job:
    """A job that succeeded at its second attempt, with what the first left behind."""
    job = house.have(
        **{"status": SUCCEEDED, "attempt": 2, "images_attempt": 2} | what_matters,
    )
    have_images(house, job, 1, 2)
    return job


def test_what_an_attempt_left_behind_is_removed_once(house: House) -> None:
    job = have_drawn(house, cleanup_due=NOW)
    waits = have_drawn(house, cleanup_due=NOW + timedelta(seconds=1))
    assert sweep(house).cleaned == 1
    assert (is_there(house, job, 1), is_there(house, job, 2)) == (False, True)
    assert is_there(house, waits, 1)
    assert stored(house, job).cleanup_due is None
    assert sweep(house).cleaned == 0


def test_a_deleted_job_loses_its_images_and_its_words(house: House) -> None:
    job = have_drawn(house, scene=a_scene("Secret"))
    house.backends.jobs.update(job.id, delete)
    assert sweep(house).cleaned == 1
    assert not is_there(house, job, 2)
    assert stored(house, job).scene.prompt == ""


def test_a_job_deleted_while_it_is_cleaned_up_is_cleaned_up_again(house: House) -> None:
    job = have_drawn(house, cleanup_due=NOW)
    real = house.backends.artifacts.delete

    def remove(name: str) -> None:
        house.backends.jobs.update(job.id, delete)
        real(name)

    backends = replace(house.backends, artifacts=Overlay(house.backends.artifacts, delete=remove))
    assert sweep(house, backends).cleaned == 0
    assert is_there(house, job, 2)
    assert sweep(house).cleaned == 1
    assert not is_there(house, job, 2)


def test_an_artifact_store_that_is_away_does_not_keep_jobs_waiting(house: House) -> None:
    have_drawn(house, cleanup_due=NOW)
    house.have(wake_at=NOW)

    def away(name: str) -> None:
        raise ArtifactStoreUnavailable("away")

    backends = replace(house.backends, artifacts=Overlay(house.backends.artifacts, delete=away))
    report = sweep(house, backends)
    assert (report.woken, report.cleaned) == (1, 0)
    assert sweep(house).cleaned == 1


@pytest.mark.parametrize(("left", "retired"), [(MOMENT, 0), (timedelta(), 1)])
def test_an_ended_job_is_deleted_after_the_retention_time_and_forgotten_after_another(
    house: House, left: timedelta, retired: int
) -> None:
    job = have_drawn(house, expire_at=NOW + left)
    assert sweep(house).retired == retired
    assert (stored(house, job).deleted_at == NOW) == bool(retired)
    assert is_there(house, job, 2) != bool(retired), "cleaning up follows in the same sweep"
    if retired:
        house.clock.advance(TOMBSTONE_FOR)
        assert sweep(house).retired == 1
        with pytest.raises(JobNotFound):
            stored(house, job)


def test_a_tombstone_is_kept_while_its_images_are_still_there(house: House) -> None:
    job = have_drawn(house, deleted_at=NOW, cleanup_due=NOW + TERMS.lease, expire_at=NOW)
    assert sweep(house).retired == 0
    assert is_there(house, job, 2)


def test_a_batchs_accepted_and_newest_takes_outlive_the_retention_time(house: House) -> None:
    batch = a_batch(tenant=TENANT, scene_count=1, expanded=1)
    house.backends.batches.create(batch)
    scene = a_batch_scene(batch, last_take=1)
    takes = [
        a_take(scene, number, status=status, expire_at=NOW, tenant=TENANT)
        for number, status in enumerate((SUCCEEDED, SUCCEEDED, Status.FAILED), 1)
    ]
    house.backends.batches.add_scenes([scene], takes[:1])
    for job in takes[1:]:
        grow(house, batch, job)
    sweep(house)
    kept = {job.take for job in takes if not stored(house, job).deleted_at}
    assert kept == {2, 3}
    assert stored(house, takes[1]).expire_at == NOW + house.settings.retention


def grow(house: House, batch: Batch, job: Job) -> None:
    """Give the batch's scene another take."""

    def rule(scene: BatchScene, newest: Job | None, now: object) -> SceneChange:
        return SceneChange(scene=replace(scene, last_take=job.take or 0), job=job)

    house.backends.batches.update_scenes(batch.id, ["p1"], rule)


# --- uploads ----------------------------------------------------------------------------------


def have_upload(house: House, **what_matters: Any) -> str:
    asset = an_asset(**{"tenant": TENANT, "expire_at": NOW} | what_matters)
    put = house.backends.artifacts.put(asset.artifact, b"mia", content_type="image/png")
    asset = replace(asset, generation=put.generation, sha256=put.sha256)
    house.backends.assets.save(asset)
    return asset.id


def has_bytes(house: House) -> bool:
    return exists(house, an_asset().artifact)


def test_an_unused_upload_is_forgotten_with_its_bytes(house: House) -> None:
    asset = have_upload(house)
    assert sweep(house).uploads == 1
    assert house.backends.assets.get(TENANT, asset) is None
    assert not has_bytes(house)


def test_bytes_that_another_tenant_has_uploaded_too_are_kept(house: House) -> None:
    have_upload(house)
    other = have_upload(house, tenant="eve", expire_at=NOW + MOMENT)
    assert sweep(house).uploads == 1
    assert house.backends.assets.get("eve", other) is not None
    assert has_bytes(house)


def test_an_upload_that_a_waiting_job_needs_is_kept_until_the_job_has_ended(house: House) -> None:
    asset = have_upload(house)
    scene = a_scene(references=(a_reference(asset=asset),))
    job = house.have(scene=scene, wake_at=NOW + timedelta(days=9))
    house = house.with_settings(max_queued_hours=24 * 30)
    assert sweep(house).uploads == 0
    house.clock.advance(timedelta(days=2))
    assert sweep(house).uploads == 0
    assert has_bytes(house)
    house.backends.jobs.update(job.id, partial(cancel, terms=TERMS))
    house.clock.advance(timedelta(days=2))
    assert sweep(house).uploads == 1
    assert not has_bytes(house)


# --- the thread -------------------------------------------------------------------------------


def run_until(
    house: House, backends: Backends, done: Callable[[], bool], nudge: threading.Event | None
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=run_sweeps, args=(backends, house.settings, stop, nudge))
    thread.start()
    try:
        for _ in range(2000):
            if done():
                return
            stop.wait(0.01)
        pytest.fail("it did not come to pass")
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_the_thread_outlives_a_store_that_is_away_and_says_so(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house = house.with_settings(sweep_seconds=0.01)
    job = house.have(wake_at=NOW)
    away, calls = Away(), list[str]()

    class Returning:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(away if len(calls) < 3 else house.backends.jobs, name)

    backends = replace(house.backends, jobs=Returning())  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO):
        run_until(house, backends, lambda: bool(house.publisher.wakes), None)
    assert [wake.job for wake in house.publisher.wakes] == [job.id]
    events = [record.message for record in caplog.records]
    assert events.count("sweep_failed") == 2
    assert events.count("swept") == 1, "a sweep that did nothing says nothing"


def test_a_nudge_starts_a_sweep_at_once(house: House) -> None:
    house = house.with_settings(sweep_seconds=3600)
    nudge, began = threading.Event(), threading.Event()
    real = house.backends.jobs.overdue

    def overdue(*given: Any, **named: Any) -> Any:
        began.set()
        return real(*given, **named)

    backends = replace(house.backends, jobs=Overlay(house.backends.jobs, overdue=overdue))

    def woken() -> bool:
        if began.is_set():  # the first sweep may have missed the job
            house.backends.jobs.update(job.id, lambda job, now: replace(job, wake_at=NOW))
            nudge.set()
        return len(house.publisher.wakes) > 3

    job = house.have(wake_at=NOW + MOMENT)
    run_until(house, backends, woken, nudge)


def test_what_is_left_of_an_expansion_is_not_put_off(house: House) -> None:
    house = house.with_settings(sweep_seconds=3600)
    batch = have_batch(house, PAGES_PER_SWEEP * PAGE + 1)
    done = lambda: expansion_done(house.backends.batches.get(batch.id))  # noqa: E731
    run_until(house, house.backends, done, None)
