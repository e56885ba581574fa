"""How many calls the queries on Firestore take, and that little and much are counted alike."""

import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from deploy.emulators import Hosts
from shared.embedded.database import Database
from shared.embedded.job_store import SqliteJobStore
from shared.gcp import job_queries, job_sums
from shared.gcp.firestore import Firestore
from shared.gcp.job_store import FirestoreJobStore
from shared.jobs import Job, Terms, claim
from shared.ports import JobFilter, JobStore
from shared.vocabulary import Priority, Status
from tests.builders import FakeClock, a_batch_scene, a_job, a_lease, a_scene, a_take
from tests.firestore_faults import Faults

LINES = 60  # more tenants than documents are read at once


@pytest.fixture
def store(emulators: Hosts) -> Firestore:
    return Firestore(f"illo-{secrets.token_hex(6)}")


@pytest.fixture
def jobs(store: Firestore) -> FirestoreJobStore:
    return FirestoreJobStore(store)


@pytest.fixture
def faults(store: Firestore) -> Faults:
    return Faults(store)


def save(jobs: JobStore, many: list[Job]) -> None:
    for start in range(0, len(many), 200):
        jobs.create(many[start : start + 200])


def calls_of(faults: Faults, ask: object) -> int:
    faults.calls.clear()
    assert callable(ask)
    ask()
    return faults.calls.total()


class TestClaimable:
    def test_takes_three_calls_while_little_waits(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        """The time, what is due, and what can be stolen."""
        assert calls_of(faults, lambda: jobs.claimable(per_tenant=8)) == 3
        save(jobs, [a_job(tenant=f"t{n}") for n in range(job_queries.LOOK_AT - 1)])
        assert calls_of(faults, lambda: jobs.claimable(per_tenant=8)) == 3

    def test_takes_one_more_for_a_line_that_is_long_however_long(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        save(jobs, [a_job() for _ in range(1000)])
        assert calls_of(faults, lambda: jobs.claimable(per_tenant=8)) == 4
        save(jobs, [a_job(tenant="eve") for _ in range(200)])
        assert calls_of(faults, lambda: jobs.claimable(per_tenant=8)) == 5

    def test_reads_many_short_lines_at_once(self, jobs: FirestoreJobStore, faults: Faults) -> None:
        save(jobs, [a_job(tenant=f"t{n:03}") for n in range(LINES) for _ in range(2)])
        assert calls_of(faults, lambda: jobs.claimable(per_tenant=2)) == 3 + 2 * LINES // 40
        listed = jobs.claimable(per_tenant=2)
        assert len({job.tenant for job in listed}) == LINES
        assert len(listed) == 2 * LINES


@pytest.mark.parametrize(
    ("few", "look_at"),
    [
        pytest.param(1000, 1000, id="little"),
        pytest.param(0, 3, id="much"),
    ],
)
def test_both_backends_answer_alike(
    jobs: FirestoreJobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    look_at: int,
) -> None:
    monkeypatch.setattr(job_sums, "FEW", few)
    monkeypatch.setattr(job_queries, "LOOK_AT", look_at)
    now = jobs._firestore.now()
    embedded = SqliteJobStore(Database(tmp_path / "illo.sqlite", clock=FakeClock(now)))
    many = list(a_crowd(random.Random(7), now))
    for store in (jobs, embedded):
        save(store, many)
    for answer in answers(embedded, now, many):
        assert answer
    for ours, theirs in zip(answers(jobs, now, many), answers(embedded, now, many), strict=True):
        assert ours == theirs


def a_crowd(chance: random.Random, now: datetime) -> Iterator[Job]:
    """Jobs of a few tenants in all states, an hour or more away from every limit."""
    for number in range(150):
        long_ago = now - timedelta(hours=chance.randrange(1, 9))
        soon = now + timedelta(hours=1)
        status = chance.choice([Status.QUEUED, Status.QUEUED, Status.RUNNING, Status.FAILED])
        scene = a_scene(width=chance.choice([64, 128, 256]))
        job = a_take(
            a_batch_scene("bat_1", f"p{number}", scene=scene),
            tenant=chance.choice(["ada", "bob", "eve"]),
            status=status,
            priority=chance.choice(list(Priority)),
            created_at=long_ago,
            not_before=chance.choice([long_ago, long_ago, soon]),
            wake_at=chance.choice([long_ago, soon]),
            metadata={"book": chance.choice("abc")},
            superseded=chance.random() < 0.3,
            cleanup_due=chance.choice([None, long_ago, soon]),
            expire_at=chance.choice([long_ago, soon]),
        )
        if status is Status.RUNNING:
            until = chance.choice([long_ago, soon]) + timedelta(seconds=number)
            job = replace(job, lease=a_lease(expires_at=until), claimed_at=long_ago)
        yield job


def answers(jobs: JobStore, now: datetime, many: list[Job]) -> Iterator[object]:
    """Everything that is asked of a store, in an order that can be compared."""
    for per_tenant in (1, 3, 200):
        yield by_id(jobs.claimable(per_tenant=per_tenant))
    for limit in (1, 3):
        yield [job.id for job in jobs.wakeable(limit)]
    yield [job.id for job in jobs.silent(99)]
    yield by_id(jobs.overdue(999, queued_before=now - HOURS, claimed_before=now - HOURS))
    yield by_id(jobs.untidy(999))
    yield by_id(jobs.retired(999))
    for tenant in (None, "ada"):
        yield set(jobs.counts(tenant))
    for job in many[:30]:
        ahead = jobs.ahead(job)
        yield ahead.jobs, round(ahead.megapixel_steps, 6)
    for filter in (
        JobFilter(tenant="ada"),
        JobFilter(tenant="ada", status=Status.QUEUED, created_after=now - HOURS),
        JobFilter(tenant="eve", batch="bat_1", metadata=("book", "a")),
    ):
        yield [job.id for job in jobs.find(filter, limit=999).items]
    yield jobs.takes("bat_1")
    yield jobs.takes("bat_1", [f"p{number}" for number in range(0, 150, 2)])
    yield jobs.batch_counts("bat_1")


HOURS = timedelta(hours=4)


def by_id(jobs: list[Job]) -> list[str]:
    return sorted(job.id for job in jobs)


def test_a_batch_is_counted_as_of_one_instant(
    store: Firestore, jobs: FirestoreJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is claimed between two counts is in one of them, not in both or neither."""
    takes = [a_take(a_batch_scene("bat_1", f"p{n}")) for n in range(3)]
    save(jobs, takes)
    waiting = iter(takes)
    count = store.sums

    def claimed_behind_it(*asked: object, **at: object) -> object:
        found = count(*asked, **at)  # type: ignore[arg-type]
        if job := next(waiting, None):
            running = partial(claim, holder="worker", terms=Terms())
            jobs.update(job.id, running)
        return found

    monkeypatch.setattr(store, "sums", claimed_behind_it)
    assert jobs.batch_counts("bat_1") == {Status.QUEUED: 3}
    monkeypatch.undo()
    assert jobs.batch_counts("bat_1") == {Status.RUNNING: 3}
