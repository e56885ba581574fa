"""What every backend promises about quotas: counted in the transaction that submits, never beside.

The rounds are few and the racers five, so that an emulator can keep up.
"""

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from shared.batches import Batch, BatchScene, SceneChange
from shared.errors import (
    BatchNotFound,
    IdempotencyRecorded,
    JobExists,
    JobNotFound,
    QuotaExceeded,
    SceneNotFound,
)
from shared.jobs import Job, cancel, claim, delete
from shared.ports import JobChange
from shared.quotas import Limit, Quota, Usage, day_of, rest_of_day
from shared.vocabulary import Metrics, Priority, Status
from tests.builders import TERMS, a_batch, a_batch_scene, a_job, a_record, a_take, job_id, sha
from tests.contract.conftest import Backend, Place
from tests.contract.test_races import PROCESSES, race

ROUNDS = 3
WAIT = 60
MINUTE = timedelta(minutes=1)
BATCH = "bat_quotas"
NOTHING = Usage(queued_jobs=0, jobs_today=0, gpu_seconds_today=0.0)
ENDED = [Status.SUCCEEDED, Status.FAILED, Status.CANCELED]


@pytest.fixture
def today(backend: Backend) -> datetime:
    """The store's time, far enough from midnight that a test ends on the day it began."""
    now = backend.now
    if rest_of_day(now) < MINUTE:
        time.sleep(MINUTE.total_seconds())
    return backend.now


def new_job(today: datetime, **what_matters: Any) -> Job:
    """A job that is made and due now."""
    at = dict.fromkeys(("created_at", "updated_at", "not_before"), today)
    return a_job(**{**at, **what_matters})


def used(queued: int, made: int | None = None, seconds: float = 0.0) -> Usage:
    today = queued if made is None else made
    return Usage(queued_jobs=queued, jobs_today=today, gpu_seconds_today=seconds)


def one_more_take(
    scene: BatchScene, newest: Job | None, now: datetime, *, created: datetime
) -> SceneChange:
    raised = replace(scene, last_take=scene.last_take + 1)
    take = a_take(raised, raised.last_take, created_at=created, updated_at=created)
    return SceneChange(scene=raised, job=take)


def drawn_scenes(backend: Backend, today: datetime, count: int) -> list[str]:
    """Scenes whose first takes were made and failed today; their keys."""
    scenes = [a_batch_scene(BATCH, f"p{n}", position=n) for n in range(count)]
    failed: dict[str, Any] = {"status": Status.FAILED, "created_at": today, "updated_at": today}
    backend.batches.add_scenes(scenes, [a_take(scene, **failed) for scene in scenes])
    return [scene.key for scene in scenes]


def advanced(batch: Batch, now: datetime, *, expanded: int) -> Batch:
    return replace(batch, expanded=expanded)


def nothing_was_taken(backend: Backend, keys: list[str]) -> None:
    assert {backend.batches.scene(BATCH, key).last_take for key in keys} == {1}
    assert {take.take for take in backend.jobs.takes(BATCH)} == {1}
    assert not any(backend.jobs.get(take.job).superseded for take in backend.jobs.takes(BATCH))


class TestUsage:
    def test_who_did_nothing_uses_nothing(self, backend: Backend, today: datetime) -> None:
        backend.jobs.create([new_job(today, tenant="eve")])
        assert backend.jobs.usage("ada") == NOTHING

    def test_waiting_jobs_are_counted_whatever_their_priority(
        self, backend: Backend, today: datetime
    ) -> None:
        jobs = [new_job(today, priority=priority) for priority in Priority]
        backend.jobs.create([*jobs, new_job(today, tenant="eve")])
        assert backend.jobs.usage("ada") == used(3)

    @pytest.mark.parametrize("status", [Status.RUNNING, *ENDED])
    def test_a_job_that_waits_no_more_was_still_made_today(
        self, backend: Backend, today: datetime, status: Status
    ) -> None:
        backend.jobs.create([new_job(today, status=status), new_job(today)])
        assert backend.jobs.usage("ada") == used(1, made=2)

    def test_deleting_a_job_does_not_unmake_it(self, backend: Backend, today: datetime) -> None:
        job = new_job(today, status=Status.FAILED)
        backend.jobs.create([job])
        backend.jobs.update(job.id, delete)
        assert backend.jobs.usage("ada") == used(0, made=1)

    def test_a_job_of_yesterday_still_waits_but_was_not_made_today(
        self, backend: Backend, today: datetime
    ) -> None:
        midnight = day_of(today)
        before = new_job(today, created_at=midnight - timedelta(microseconds=1))
        backend.jobs.create([before, new_job(today, created_at=midnight)])
        assert backend.jobs.usage("ada") == used(2, made=1)

    def test_seconds_are_those_of_jobs_that_changed_since_midnight(
        self, backend: Backend, today: datetime
    ) -> None:
        midnight, moment = day_of(today), timedelta(microseconds=1)
        jobs = [
            new_job(today, status=Status.FAILED, metrics=Metrics(gpu_seconds=spent), **other)
            for spent, other in (
                (1.0, {"updated_at": midnight - moment}),
                (2.5, {"updated_at": midnight}),
                (4.0, {"created_at": midnight - moment}),  # made yesterday, ended today
                (8.0, {"tenant": "eve"}),
            )
        ]
        backend.jobs.create(jobs)
        assert backend.jobs.usage("ada") == used(0, made=2, seconds=6.5)

    def test_the_seconds_of_a_deleted_job_stay_used(
        self, backend: Backend, today: datetime
    ) -> None:
        job = new_job(today, status=Status.FAILED, metrics=Metrics(gpu_seconds=3.0))
        backend.jobs.create([job])
        backend.jobs.update(job.id, delete)
        assert backend.jobs.usage("ada") == used(0, made=1, seconds=3.0)

    def test_scenes_without_a_job_wait_and_were_made_today(self, backend: Backend) -> None:
        for batch in (
            a_batch(scene_count=5),
            a_batch(scene_count=7, expanded=4),
            a_batch(scene_count=3, expanded=3),
            a_batch(scene_count=9, tenant="eve"),
            a_batch(scene_count=11, expanded=1, canceled=True, canceling=True),
        ):
            backend.batches.create(batch)
        assert backend.jobs.usage("ada") == used(8)

    def test_expanding_a_batch_changes_nothing(self, backend: Backend, today: datetime) -> None:
        batch = a_batch(scene_count=2, created_at=today)
        backend.batches.create(batch, quota=Quota(queued_jobs=2))
        assert backend.jobs.usage("ada") == used(2)
        for expanded in (1, 2):
            scene = a_batch_scene(batch, f"p{expanded}", position=expanded - 1)
            backend.batches.add_scenes([scene], [a_take(scene, created_at=today)])
            backend.batches.update(batch.id, partial(advanced, expanded=expanded))
            assert backend.jobs.usage("ada") == used(2)

    def test_canceling_a_batch_frees_the_places_of_its_scenes(self, backend: Backend) -> None:
        batch = a_batch(scene_count=5, expanded=2)
        backend.batches.create(batch)
        backend.batches.update(
            batch.id, lambda old, now: replace(old, canceled=True, canceling=True)
        )
        assert backend.jobs.usage("ada") == NOTHING


class TestPlaces:
    @pytest.mark.parametrize(
        "changes",
        [
            [partial(cancel, terms=TERMS)],
            [partial(claim, holder="w", terms=TERMS)],
            [partial(claim, holder="w", terms=TERMS), partial(cancel, terms=TERMS)],
        ],
        ids=["canceled", "claimed", "canceled while it runs"],
    )
    def test_a_job_that_leaves_the_queue_frees_its_place_at_once(
        self, backend: Backend, today: datetime, changes: list[JobChange]
    ) -> None:
        quota, job = Quota(queued_jobs=1), new_job(today)
        backend.jobs.create([job], quota=quota)
        with pytest.raises(QuotaExceeded):
            backend.jobs.create([new_job(today)], quota=quota)
        for change in changes:
            backend.jobs.update(job.id, change)
        assert backend.jobs.create([new_job(today)], quota=quota) == used(1, made=2)


class TestCreate:
    def test_without_a_quota_nothing_is_told(self, backend: Backend, today: datetime) -> None:
        assert backend.jobs.create([new_job(today)]) is None
        assert backend.batches.create(a_batch()) is None

    def test_with_one_the_use_is_told_as_it_is_then(
        self, backend: Backend, today: datetime
    ) -> None:
        quota = Quota(queued_jobs=9, jobs_per_day=9, gpu_seconds_per_day=9)
        ended = new_job(today, status=Status.FAILED, metrics=Metrics(gpu_seconds=2.0))
        backend.jobs.create([ended])
        told = backend.jobs.create([new_job(today), new_job(today)], quota=quota)
        assert told == used(2, made=3, seconds=2.0) == backend.jobs.usage("ada")
        told = backend.batches.create(a_batch(scene_count=4), quota=quota)
        assert told == used(6, made=7, seconds=2.0) == backend.jobs.usage("ada")

    @pytest.mark.parametrize(
        ("quota", "limit"),
        [
            (Quota(queued_jobs=3), Limit.QUEUED_JOBS),
            (Quota(jobs_per_day=3), Limit.JOBS_PER_DAY),
        ],
    )
    def test_the_last_place_is_given_and_no_more(
        self, backend: Backend, today: datetime, quota: Quota, limit: Limit
    ) -> None:
        backend.jobs.create([new_job(today)], quota=quota)
        with pytest.raises(QuotaExceeded) as raised:
            backend.jobs.create([new_job(today) for _ in range(3)], quota=quota)
        assert raised.value.limit == limit
        assert backend.jobs.usage("ada") == used(1)
        backend.jobs.create([new_job(today) for _ in range(2)], quota=quota)
        with pytest.raises(QuotaExceeded) as raised:
            backend.jobs.create([new_job(today)], quota=quota)
        assert raised.value.limit == limit
        assert backend.jobs.usage("ada") == used(3)

    @pytest.mark.parametrize(("spent", "fits"), [(4.9, True), (5.0, False)])
    def test_seconds_are_used_up_when_they_reach_the_limit(
        self, backend: Backend, today: datetime, spent: float, fits: bool
    ) -> None:
        quota = Quota(gpu_seconds_per_day=5)
        drawn = {"status": Status.FAILED, "metrics": Metrics(gpu_seconds=spent)}
        yesterday = day_of(today) - MINUTE
        backend.jobs.create([new_job(today, **drawn), new_job(today, **drawn, tenant="eve")])
        backend.jobs.create([new_job(today, **drawn, updated_at=yesterday)])
        if fits:
            backend.jobs.create([new_job(today)], quota=quota)
            return
        with pytest.raises(QuotaExceeded) as raised:
            backend.jobs.create([new_job(today)], quota=quota)
        assert raised.value.limit == Limit.GPU_SECONDS_PER_DAY
        wait = raised.value.retry_after
        assert wait is not None
        assert abs(wait - rest_of_day(today)) < MINUTE

    def test_another_tenants_use_does_not_count(self, backend: Backend, today: datetime) -> None:
        quota = Quota(queued_jobs=1, jobs_per_day=1)
        backend.jobs.create([new_job(today, tenant="eve")], quota=quota)
        backend.batches.create(a_batch(tenant="bob", scene_count=1), quota=quota)
        assert backend.jobs.create([new_job(today)], quota=quota) == used(1)

    def test_a_new_day_has_a_quota_of_its_own(self, backend: Backend, today: datetime) -> None:
        quota, yesterday = Quota(jobs_per_day=1), day_of(today) - MINUTE
        spent = {"created_at": yesterday, "updated_at": yesterday, "status": Status.SUCCEEDED}
        backend.jobs.create([new_job(today, **spent) for _ in range(3)])
        assert backend.jobs.create([new_job(today)], quota=quota) == used(1)
        with pytest.raises(QuotaExceeded):
            backend.jobs.create([new_job(today)], quota=quota)

    def test_a_refused_job_leaves_nothing_and_its_key_can_be_used_later(
        self, backend: Backend, today: datetime
    ) -> None:
        quota, job, refused = Quota(queued_jobs=1), new_job(today), new_job(today)
        record = a_record("k", expire_at=today + timedelta(hours=1))
        backend.jobs.create([job], quota=quota)
        with pytest.raises(QuotaExceeded):
            backend.jobs.create([refused], record=record, quota=quota)
        with pytest.raises(JobNotFound):
            backend.jobs.get(refused.id)
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) is None
        backend.jobs.update(job.id, partial(cancel, terms=TERMS))
        assert backend.jobs.create([refused], record=record, quota=quota) == used(1, made=2)
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) == record

    def test_an_answer_goes_before_an_id_and_both_before_a_quota(
        self, backend: Backend, today: datetime
    ) -> None:
        quota, job = Quota(queued_jobs=1), new_job(today)
        record = a_record("k", expire_at=today + timedelta(hours=1))
        backend.jobs.create([job], record=record, quota=quota)
        with pytest.raises(IdempotencyRecorded):
            backend.jobs.create([job], record=record, quota=quota)
        with pytest.raises(JobExists):
            backend.jobs.create([job], quota=quota)
        with pytest.raises(IdempotencyRecorded):
            backend.batches.create(a_batch(), record=record, quota=quota)

    def test_no_job_at_all_always_fits(self, backend: Backend, today: datetime) -> None:
        backend.jobs.create([new_job(today), new_job(today)])
        record = a_record("k", expire_at=today + timedelta(hours=1))
        backend.jobs.create([], record=record, quota=Quota(queued_jobs=1))
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) == record


class TestBatches:
    @pytest.mark.parametrize("quota", [Quota(queued_jobs=5), Quota(jobs_per_day=5)])
    def test_one_that_exactly_fits_is_taken_and_one_more_scene_is_not(
        self, backend: Backend, today: datetime, quota: Quota
    ) -> None:
        backend.jobs.create([new_job(today)], quota=quota)
        large, fitting = a_batch(scene_count=5), a_batch(scene_count=4)
        record = a_record("k", expire_at=today + timedelta(hours=1))
        with pytest.raises(QuotaExceeded):
            backend.batches.create(large, record=record, quota=quota)
        with pytest.raises(BatchNotFound):
            backend.batches.get(large.id)
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) is None
        assert backend.batches.create(fitting, record=record, quota=quota) == used(5)
        with pytest.raises(QuotaExceeded):
            backend.jobs.create([new_job(today)], quota=quota)

    @pytest.mark.parametrize("quota", [Quota(queued_jobs=2), Quota(jobs_per_day=5)])
    def test_new_takes_are_charged_all_or_none(
        self, backend: Backend, today: datetime, quota: Quota
    ) -> None:
        keys = drawn_scenes(backend, today, 3)
        rule = partial(one_more_take, created=today)
        with pytest.raises(QuotaExceeded):
            backend.batches.update_scenes(BATCH, keys, rule, quota=quota)
        nothing_was_taken(backend, keys)
        assert len(backend.batches.update_scenes(BATCH, keys[:2], rule, quota=quota)) == 2
        assert backend.jobs.usage("ada") == used(2, made=5)
        with pytest.raises(QuotaExceeded):
            backend.batches.update_scenes(BATCH, keys[2:], rule, quota=quota)

    def test_no_new_take_is_made_once_the_seconds_are_used_up(
        self, backend: Backend, today: datetime
    ) -> None:
        keys, quota = drawn_scenes(backend, today, 1), Quota(gpu_seconds_per_day=1)
        spent = new_job(today, status=Status.FAILED, metrics=Metrics(gpu_seconds=1.0))
        backend.jobs.create([spent])
        rule = partial(one_more_take, created=today)
        with pytest.raises(QuotaExceeded):
            backend.batches.update_scenes(BATCH, keys, rule, quota=quota)
        nothing_was_taken(backend, keys)

    def test_changes_without_a_job_cost_nothing(self, backend: Backend, today: datetime) -> None:
        keys, quota = drawn_scenes(backend, today, 2), Quota(queued_jobs=1, jobs_per_day=1)

        def edit(scene: BatchScene, newest: Job | None, now: datetime) -> SceneChange:
            return SceneChange(scene=replace(scene, revision=2))

        assert len(backend.batches.update_scenes(BATCH, keys, edit, quota=quota)) == 2
        assert backend.batches.scene(BATCH, keys[0]).revision == 2

    def test_an_unknown_scene_goes_before_the_quota(
        self, backend: Backend, today: datetime
    ) -> None:
        keys, rule = drawn_scenes(backend, today, 1), partial(one_more_take, created=today)
        with pytest.raises(SceneNotFound):
            backend.batches.update_scenes(
                BATCH, [*keys, "nobody"], rule, quota=Quota(jobs_per_day=1)
            )


# --- races: one place is left, and five want it ------------------------------------------------


def tenant_of(round: int) -> str:
    return f"tenant-{round}"


def want_the_place(backend: Backend, round: int, racer: int) -> bool:
    """Submit through one of three doors; say whether it was accepted."""
    tenant, now = tenant_of(round), backend.now
    quota = Quota(queued_jobs=2)
    try:
        if racer % 3 == 0:
            job = new_job(now, id=job_id((round, racer)), tenant=tenant)
            backend.jobs.create([job], quota=quota)
        elif racer % 3 == 1:
            batch = a_batch(id=f"bat_{round}_{racer}", tenant=tenant, scene_count=1)
            backend.batches.create(batch, quota=quota)
        else:
            rule = partial(take_for, tenant=tenant)
            backend.batches.update_scenes(f"bat_{round}", ["p1"], rule, quota=quota)
    except QuotaExceeded:
        return False
    return True


def take_for(scene: BatchScene, newest: Job | None, now: datetime, *, tenant: str) -> SceneChange:
    raised = replace(scene, last_take=scene.last_take + 1)
    take = a_take(raised, raised.last_take, tenant=tenant, created_at=now, updated_at=now)
    return SceneChange(scene=raised, job=take)


def leave_one_place(backend: Backend, today: datetime) -> None:
    for round in range(ROUNDS):
        tenant, scene = tenant_of(round), a_batch_scene(f"bat_{round}", "p1")
        drawn = a_take(scene, tenant=tenant, status=Status.FAILED, created_at=today)
        backend.batches.add_scenes([scene], [drawn])
        backend.jobs.create([new_job(today, tenant=tenant)])


def test_of_five_processes_one_gets_the_last_place(place: Place, today: datetime) -> None:
    backend = place.open()
    leave_one_place(backend, today)
    for round, outcomes in enumerate(race(place, want_the_place, rounds=ROUNDS)):
        assert outcomes.count(True) == 1
        assert backend.jobs.usage(tenant_of(round)).queued_jobs == 2


def test_of_five_threads_one_gets_the_last_place(backend: Backend, today: datetime) -> None:
    leave_one_place(backend, today)
    barrier = threading.Barrier(PROCESSES)
    outcomes: list[list[bool]] = [[] for _ in range(ROUNDS)]

    def run(racer: int) -> None:
        for round in range(ROUNDS):
            barrier.wait(timeout=WAIT)
            outcomes[round].append(want_the_place(backend, round, racer))

    threads = [threading.Thread(target=run, args=(racer,)) for racer in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [of_a_round.count(True) for of_a_round in outcomes] == [1] * ROUNDS
    assert [len(of_a_round) for of_a_round in outcomes] == [PROCESSES] * ROUNDS
