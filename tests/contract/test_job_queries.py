"""What every JobStore promises of its queries over the queue."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from shared.jobs import Job, claim, supersede
from shared.ports import Ahead, QueueCount
from shared.vocabulary import Metrics, Priority, Status
from tests.builders import TERMS, a_batch_scene, a_job, a_lease, a_reference, a_scene, a_take
from tests.contract.conftest import Backend

MINUTE = timedelta(minutes=1)
HIGH, LOW = Priority.HIGH, Priority.LOW
RUNNING = Status.RUNNING


def ids(jobs: Iterable[Job]) -> list[str]:
    return [job.id for job in jobs]


def leased_until(backend: Backend, minutes: float) -> Job:
    return a_job(status=RUNNING, lease=a_lease(expires_at=backend.now + MINUTE * minutes))


def a_line(backend: Backend, count: int, **what_matters: object) -> list[Job]:
    """Due jobs, the oldest first."""
    start = backend.now - timedelta(hours=1)
    return [
        a_job(created_at=start + timedelta(seconds=n), not_before=start, **what_matters)
        for n in range(count)
    ]


def store(backend: Backend, jobs: Sequence[Job]) -> None:
    for start in range(0, len(jobs), 200):
        backend.jobs.create(jobs[start : start + 200])


class TestClaimable:
    def test_lists_the_first_few_of_each_tenant_and_priority(self, backend: Backend) -> None:
        ada, eve, urgent = (
            a_line(backend, 5),
            a_line(backend, 1, tenant="eve"),
            a_line(backend, 3, priority=HIGH),
        )
        backend.jobs.create([*reversed(ada), *eve, *urgent])
        listed = backend.jobs.claimable(per_tenant=2)
        assert sorted(ids(listed)) == sorted(ids([*ada[:2], *eve, *urgent[:2]]))
        assert ids(job for job in listed if job in ada) == ids(ada[:2])

    def test_a_tenant_with_thousands_hides_nobody(self, backend: Backend) -> None:
        crowd, one = a_line(backend, 2000), a_job(tenant="zoe", priority=LOW)
        store(backend, crowd)
        backend.jobs.create([one])
        assert ids(backend.jobs.claimable(per_tenant=3)) == ids([*crowd[:3], one])
        assert one.id in ids(backend.jobs.wakeable(2))

    def test_leaves_out_what_cannot_be_claimed(self, backend: Backend) -> None:
        due = a_job(not_before=backend.now - MINUTE)
        waiting = [
            a_job(not_before=backend.now + MINUTE),
            a_job(not_before=backend.now - MINUTE, cancel_requested_at=backend.now),
            a_job(status=Status.CANCELED),
            leased_until(backend, +1),
        ]
        backend.jobs.create([*waiting, due])
        assert ids(backend.jobs.claimable(per_tenant=9)) == [due.id]

    def test_jobs_that_wait_for_a_retry_do_not_hide_younger_ones(self, backend: Backend) -> None:
        resting = [replace(j, not_before=backend.now + MINUTE) for j in a_line(backend, 5)]
        due = a_job(not_before=backend.now - MINUTE)
        backend.jobs.create([*resting, due])
        assert ids(backend.jobs.claimable(per_tenant=1)) == [due.id]

    def test_lists_what_can_be_stolen(self, backend: Backend) -> None:
        lost = leased_until(backend, -1)
        unwanted = replace(leased_until(backend, -1), cancel_requested_at=backend.now)
        backend.jobs.create([lost, unwanted])
        assert ids(backend.jobs.claimable(per_tenant=9)) == [lost.id]


class TestWakeable:
    def test_lists_what_is_due_for_a_wake_up_only(self, backend: Backend) -> None:
        due = a_job(wake_at=backend.now - MINUTE)
        others = [
            a_job(wake_at=backend.now + MINUTE),
            a_job(wake_at=backend.now - MINUTE, status=RUNNING),
            a_job(wake_at=backend.now - MINUTE, status=Status.FAILED),
        ]
        backend.jobs.create([due, *others])
        assert ids(backend.jobs.wakeable(10)) == [due.id]

    def test_spreads_its_limit_over_tenants_and_priorities(self, backend: Backend) -> None:
        ada = a_line(backend, 5)
        eve = a_line(backend, 5, tenant="eve")
        low = a_line(backend, 5, priority=LOW)
        backend.jobs.create([*ada, *eve, *low])
        assert sorted(ids(backend.jobs.wakeable(3))) == sorted(ids([ada[0], eve[0], low[0]]))
        assert len(backend.jobs.wakeable(4)) == 4
        assert len(backend.jobs.wakeable(99)) == 15
        assert set(ids(ada[:2])) <= set(ids(backend.jobs.wakeable(6)))


class TestWhatHasRunOut:
    def test_silent_jobs_are_running_ones_past_their_lease(self, backend: Backend) -> None:
        older, old, live = (leased_until(backend, minutes) for minutes in (-2, -1, +1))
        backend.jobs.create([live, old, older, a_job()])
        assert ids(backend.jobs.silent(10)) == ids([older, old])
        assert ids(backend.jobs.silent(1)) == [older.id]

    def test_overdue_jobs_wait_or_run_too_long(self, backend: Backend) -> None:
        now = backend.now
        waits = a_job(created_at=now - 3 * MINUTE)
        runs = a_job(status=RUNNING, created_at=now - 9 * MINUTE, claimed_at=now - 3 * MINUTE)
        others = [
            a_job(created_at=now - MINUTE),
            a_job(status=RUNNING, created_at=now - 9 * MINUTE, claimed_at=now - MINUTE),
            a_job(status=Status.FAILED, created_at=now - 9 * MINUTE, claimed_at=now - 9 * MINUTE),
        ]
        backend.jobs.create([waits, runs, *others])
        before = now - 2 * MINUTE
        listed = backend.jobs.overdue(10, queued_before=before, claimed_before=before)
        assert sorted(ids(listed)) == sorted(ids([waits, runs]))
        assert len(backend.jobs.overdue(1, queued_before=before, claimed_before=before)) == 1

    def test_untidy_jobs_have_a_cleanup_that_is_due(self, backend: Backend) -> None:
        due = a_job(status=Status.FAILED, cleanup_due=backend.now - MINUTE)
        later = a_job(status=Status.FAILED, cleanup_due=backend.now + MINUTE)
        backend.jobs.create([due, later, a_job(status=Status.FAILED)])
        assert ids(backend.jobs.untidy(10)) == [due.id]
        assert backend.jobs.untidy(0) == []

    def test_retired_jobs_have_ended_and_outlived_their_time(self, backend: Backend) -> None:
        past, future = backend.now - MINUTE, backend.now + MINUTE
        ended = a_job(status=Status.SUCCEEDED, expire_at=past)
        deleted = a_job(status=Status.FAILED, expire_at=past, deleted_at=past)
        backend.jobs.create(
            [
                ended,
                deleted,
                a_job(status=Status.SUCCEEDED, expire_at=future),
                a_job(expire_at=past),
                a_job(status=RUNNING, expire_at=past),
            ]
        )
        assert sorted(ids(backend.jobs.retired(10))) == sorted(ids([ended, deleted]))
        assert len(backend.jobs.retired(1)) == 1


class TestCounts:
    def test_unfinished_jobs_are_counted_with_the_oldest(self, backend: Backend) -> None:
        ada, eve = a_line(backend, 3), a_line(backend, 2, tenant="eve", priority=HIGH)
        running = a_job(status=RUNNING)
        backend.jobs.create([*ada, *eve, running, a_job(status=Status.FAILED)])
        queued = QueueCount(
            status=Status.QUEUED, priority=Priority.NORMAL, jobs=3, oldest=ada[0].created_at
        )
        urgent = replace(queued, priority=HIGH, jobs=2, oldest=eve[0].created_at)
        drawn = replace(queued, status=RUNNING, jobs=1, oldest=running.created_at)
        assert set(backend.jobs.counts()) == {queued, urgent, drawn}
        assert set(backend.jobs.counts("ada")) == {queued, drawn}
        assert backend.jobs.counts("nobody") == []

    def test_device_seconds_are_summed_over_what_changed_since(self, backend: Backend) -> None:
        spent = Metrics(gpu_seconds=1.5)
        old = a_job(status=Status.FAILED, metrics=spent, updated_at=backend.now - 2 * MINUTE)
        new = a_job(status=Status.FAILED, metrics=spent, updated_at=backend.now)
        gone = replace(a_job(tenant="eve", metrics=spent), deleted_at=backend.now)
        backend.jobs.create([old, new, replace(gone, updated_at=backend.now)])
        assert backend.jobs.gpu_seconds(backend.now - MINUTE) == pytest.approx(3.0)
        assert backend.jobs.gpu_seconds(backend.now - 3 * MINUTE) == pytest.approx(4.5)
        assert backend.jobs.gpu_seconds(backend.now + MINUTE) == 0

    def test_an_asset_is_needed_until_its_jobs_have_ended(self, backend: Backend) -> None:
        mia, leo = a_reference("mia"), a_reference("leo")
        job = a_job(scene=a_scene(references=(mia, leo, mia)))
        ended = a_job(scene=a_scene(references=(a_reference("tom"),)), status=Status.FAILED)
        backend.jobs.create([job, ended])
        assert backend.jobs.needs_asset(mia.asset)
        assert backend.jobs.needs_asset(leo.asset)
        assert not backend.jobs.needs_asset(ended.scene.references[0].asset)
        backend.jobs.update(job.id, lambda stored, now: replace(stored, status=RUNNING))
        assert backend.jobs.needs_asset(mia.asset)
        backend.jobs.update(job.id, lambda stored, now: replace(stored, status=Status.CANCELED))
        assert not backend.jobs.needs_asset(mia.asset)


class TestAhead:
    def test_nothing_goes_before_the_only_job(self, backend: Backend) -> None:
        job = a_job()
        backend.jobs.create([job])
        assert backend.jobs.ahead(job) == Ahead(jobs=0, megapixel_steps=0)

    def test_a_job_that_is_claimed_by_now_does_not_go_before_itself(self, backend: Backend) -> None:
        job = a_job()
        backend.jobs.create([job])
        backend.jobs.update(job.id, partial(claim, holder="worker", terms=TERMS))
        assert backend.jobs.ahead(job) == Ahead(jobs=0, megapixel_steps=0)

    def test_running_urgent_and_older_jobs_go_first(self, backend: Backend) -> None:
        large = a_scene(width=1000, height=1000, steps=10)
        mine = a_job()
        before = [
            a_job(scene=large, status=RUNNING),
            a_job(scene=large, priority=HIGH, created_at=backend.now + MINUTE, tenant="eve"),
            a_job(scene=large, created_at=mine.created_at - MINUTE),
        ]
        after = [
            a_job(created_at=mine.created_at + MINUTE),
            a_job(priority=LOW, created_at=mine.created_at - MINUTE),
            a_job(status=Status.FAILED, created_at=mine.created_at - MINUTE),
        ]
        backend.jobs.create([mine, *before, *after])
        ahead = backend.jobs.ahead(mine)
        assert ahead.jobs == 3
        assert ahead.megapixel_steps == pytest.approx(30)

    def test_tenants_take_turns(self, backend: Backend) -> None:
        crowd = a_line(backend, 20, tenant="eve")
        mine = [a_job(created_at=backend.now + MINUTE * n) for n in range(3)]
        backend.jobs.create([*crowd, *mine])
        assert [backend.jobs.ahead(job).jobs for job in mine] == [1, 3, 5]
        assert [backend.jobs.ahead(job).jobs for job in (crowd[0], crowd[1], crowd[19])] == [
            0,
            2,
            22,
        ]


class TestTakes:
    def test_are_listed_for_a_batch_or_for_some_of_its_scenes(self, backend: Backend) -> None:
        one, two = a_batch_scene("bat_1", "p1"), a_batch_scene("bat_1", "p2")
        jobs = [a_take(one), a_take(one, 2, status=Status.FAILED), a_take(two)]
        backend.jobs.create([*jobs, a_take(a_batch_scene("bat_2", "p1"))])
        listed = backend.jobs.takes("bat_1")
        assert [(take.job, take.key, take.take) for take in listed] == [
            (job.id, job.scene_key, job.take) for job in jobs
        ]
        assert listed[1].status is Status.FAILED
        assert listed[1].recipe == jobs[1].recipe
        assert [take.job for take in backend.jobs.takes("bat_1", ["p2"])] == [jobs[2].id]
        assert backend.jobs.takes("bat_1", []) == []

    def test_counts_look_at_the_newest_take_and_sums_at_all(self, backend: Backend) -> None:
        scene, spent = a_batch_scene("bat_1"), Metrics(gpu_seconds=2)
        first = a_take(scene, status=Status.FAILED, metrics=spent)
        backend.jobs.create([first, a_take(scene, 2, metrics=spent)])
        backend.jobs.update(first.id, supersede)
        assert backend.jobs.batch_counts("bat_1") == {Status.QUEUED: 1}
        assert backend.jobs.batch_gpu_seconds("bat_1") == pytest.approx(4)
        assert backend.jobs.batch_gpu_seconds("bat_2") == 0
