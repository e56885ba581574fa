"""What comes of a transaction on Firestore whose calls fail, at whichever point they do."""

import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth.exceptions import RefreshError

from deploy.emulators import Hosts
from shared.errors import (
    IdempotencyRecorded,
    JobExists,
    LeaseHeld,
    QuotaExceeded,
    StoreError,
    StoreUnavailable,
)
from shared.gcp import shapes
from shared.gcp.calls import CALL_SECONDS, ONCE
from shared.gcp.firestore import Fields, Firestore
from shared.gcp.job_store import FirestoreJobStore
from shared.gcp.outcomes import REMEMBERED_WRITES
from shared.gcp.shapes import JOBS
from shared.gcp.transactions import DocumentExists, Transaction
from shared.jobs import Job, claim
from shared.quotas import Quota
from shared.vocabulary import Status
from tests.builders import TERMS, a_job, a_record, job_id, sha
from tests.firestore_faults import (
    Delayed,
    Fault,
    Faults,
    after,
    answer_lost,
    broken_off,
    fault,
    refused,
)

AWAY = fault(exceptions.ServiceUnavailable, "away")
TOO_LATE = fault(exceptions.DeadlineExceeded, "too late")
CONTENDED = fault(exceptions.Aborted, "contended")
UNKNOWN_OUTCOMES = [
    TOO_LATE,
    AWAY,
    fault(exceptions.InternalServerError, "internal"),
    fault(exceptions.Unknown, "unknown"),
    fault(exceptions.Cancelled, "canceled"),
]
QUOTA = Quota(queued_jobs=5)
SHORT = 0.3  # seconds of patience where nothing helps


class PausesAlone:
    """A clock on which only pauses take time: how busy the machine is decides nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def pauses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.gcp.calls.time", PausesAlone())


@pytest.fixture
def project(emulators: Hosts) -> str:
    return f"illo-{secrets.token_hex(6)}"


@pytest.fixture
def store(project: str) -> Firestore:
    return Firestore(project)


@pytest.fixture
def faults(store: Firestore) -> Faults:
    return Faults(store)


@pytest.fixture
def jobs(store: Firestore) -> FirestoreJobStore:
    return FirestoreJobStore(store)


@pytest.fixture
def others(project: str) -> FirestoreJobStore:
    """Another process on the same database, whose calls never fail."""
    return FirestoreJobStore(Firestore(project))


@pytest.fixture
def job(others: FirestoreJobStore) -> Job:
    job = a_job(id=job_id("counter"))
    others.create([job])
    return job


def add_one(job: Job, now: object) -> Job:
    return replace(job, wakes=job.wakes + 1)


def kind(error: Exception) -> str:
    return type(error).__name__


class TestAnAnswerThatWasLost:
    @pytest.mark.parametrize("error", UNKNOWN_OUTCOMES, ids=kind)
    def test_an_update_is_applied_once_and_returns_what_is_stored(
        self, jobs: FirestoreJobStore, faults: Faults, job: Job, error: Exception
    ) -> None:
        faults.on("commit", answer_lost(error))
        stored = jobs.update(job.id, add_one)
        assert (stored.wakes, stored.version) == (1, 2)
        assert jobs.get(job.id) == stored
        assert faults.calls["commit"] == 1

    @pytest.mark.parametrize("writers", [1, REMEMBERED_WRITES - 1])
    def test_an_update_is_recognised_beneath_what_others_wrote_since(
        self,
        jobs: FirestoreJobStore,
        others: FirestoreJobStore,
        faults: Faults,
        job: Job,
        writers: int,
    ) -> None:
        def write() -> None:
            for _ in range(writers):
                others.update(job.id, add_one)

        faults.on("commit", answer_lost(TOO_LATE, meanwhile=write))
        assert jobs.update(job.id, add_one).wakes == 1
        assert jobs.get(job.id).wakes == 1 + writers

    @pytest.mark.parametrize("quota", [None, QUOTA])
    def test_a_job_is_created_once(
        self, jobs: FirestoreJobStore, faults: Faults, quota: Quota | None
    ) -> None:
        now = jobs._firestore.now()
        job, record = a_job(created_at=now), a_record("k", expire_at=now + TERMS.lease)
        faults.on("commit", answer_lost(TOO_LATE))
        usage = jobs.create([job], record=record, quota=quota)
        assert jobs.get(job.id) == job
        assert jobs.usage(job.tenant).queued_jobs == 1
        assert quota is None or (usage and usage.queued_jobs == 1)

    def test_a_claim_is_not_refused_to_the_one_who_made_it(
        self, jobs: FirestoreJobStore, faults: Faults, job: Job
    ) -> None:
        faults.on("commit", answer_lost(AWAY))
        claimed = jobs.update(job.id, partial(claim, holder="me", terms=TERMS))
        assert claimed.lease
        assert (claimed.lease.holder, claimed.attempt) == ("me", 1)
        with pytest.raises(LeaseHeld):
            jobs.update(job.id, partial(claim, holder="me", terms=TERMS))

    def test_it_is_looked_for_though_the_time_is_up(
        self, project: str, job: Job, others: FirestoreJobStore
    ) -> None:
        hurried = Firestore(project, patience=0)
        Faults(hurried).on("commit", answer_lost(TOO_LATE))
        assert FirestoreJobStore(hurried).update(job.id, add_one).wakes == 1
        assert others.get(job.id).wakes == 1

    def test_it_is_looked_for_until_the_store_answers_again(
        self, jobs: FirestoreJobStore, faults: Faults, job: Job
    ) -> None:
        def store_away() -> None:
            faults.on("batch_get_documents", *repeat(refused(AWAY), 3))

        faults.on("commit", answer_lost(AWAY, meanwhile=store_away))
        assert jobs.update(job.id, add_one).wakes == 1
        assert jobs.get(job.id).wakes == 1

    def test_several_lost_tries_make_one_change(
        self, jobs: FirestoreJobStore, faults: Faults, job: Job
    ) -> None:
        faults.on("commit", refused(TOO_LATE), refused(CONTENDED), answer_lost(TOO_LATE))
        assert jobs.update(job.id, add_one).wakes == 1
        assert jobs.get(job.id).wakes == 1


class TestACommitThatArrivesLate:
    @pytest.mark.parametrize(
        ("call", "reads_before"),
        [
            pytest.param("batch_get_documents", 1, id="before the body reads again"),
            pytest.param("commit", 0, id="before the next commit"),
        ],
    )
    def test_changes_once(
        self,
        jobs: FirestoreJobStore,
        faults: Faults,
        job: Job,
        call: str,
        reads_before: int,
    ) -> None:
        late = Delayed(TOO_LATE)
        arrives: list[Fault] = [*repeat(lambda go: go(), reads_before), after(late.arrive)]

        def give_up(go: Callable[[], Any]) -> Any:
            # planned only now: the body's first read is over
            faults.on(call, *arrives)
            return late(go)

        faults.on("commit", give_up)
        stored = jobs.update(job.id, add_one)
        assert (stored.wakes, stored.version) == (1, 2)
        assert jobs.get(job.id) == stored

    def test_creates_once(self, jobs: FirestoreJobStore, faults: Faults) -> None:
        job, late = a_job(), Delayed(TOO_LATE)
        faults.on("commit", late, after(late.arrive))
        jobs.create([job])
        assert jobs.get(job.id) == job


class TestOthersWhoAreFaster:
    def test_the_body_runs_again_on_what_they_wrote(
        self, jobs: FirestoreJobStore, others: FirestoreJobStore, faults: Faults, job: Job
    ) -> None:
        faults.on("commit", *repeat(after(lambda: others.update(job.id, add_one)), 3))
        assert jobs.update(job.id, add_one).wakes == 4
        assert faults.calls["commit"] == 4

    def test_a_job_of_that_id_exists(
        self, jobs: FirestoreJobStore, others: FirestoreJobStore, faults: Faults
    ) -> None:
        mine = a_job(tenant="me")
        theirs = replace(mine, tenant="them")
        faults.on("commit", after(lambda: others.create([theirs])))
        with pytest.raises(JobExists, match=mine.id):
            jobs.create([mine])
        assert jobs.get(mine.id) == theirs

    def test_the_same_request_is_recorded_though_its_ids_are_taken_too(
        self, jobs: FirestoreJobStore, others: FirestoreJobStore, faults: Faults
    ) -> None:
        job, record = a_job(), a_record("k", expire_at=jobs._firestore.now() + TERMS.lease)
        faults.on("commit", after(lambda: others.create([job], record=record)))
        with pytest.raises(IdempotencyRecorded) as raised:
            jobs.create([job], record=replace(record, request_sha256=sha("mine")))
        assert raised.value.record == record

    @pytest.mark.parametrize("locking", [False, True])
    def test_contention_that_passes_is_waited_for(
        self, store: Firestore, faults: Faults, job: Job, locking: bool
    ) -> None:
        faults.on("commit", *repeat(refused(CONTENDED), 4))
        store.transact(partial(rewrite, id=job.id), locking=locking)
        assert faults.calls["commit"] == 5
        assert (store.get(JOBS, job.id) or {})["id"] == "written"


def rewrite(transaction: Transaction, *, id: str) -> None:
    assert transaction.get(JOBS, id)
    transaction.write(JOBS, id, {"id": "written"})


def count_waiting(transaction: Transaction) -> int:
    ask = shapes.QUEUED_OF_TENANT.ask(tenant="ada", status=Status.QUEUED.value)
    assert len(transaction.run(ask)) == transaction.glance(ask).count
    transaction.create(JOBS, secrets.token_hex(8), {"id": "new"})
    return transaction.glance(ask).count


READING = ["batch_get_documents", "run_query", "run_aggregation_query"]
CALLS = [*READING, "begin_transaction", "commit"]


class TestAStoreThatIsAway:
    """A locking body that asks queries makes every kind of call there is."""

    @staticmethod
    def body(transaction: Transaction) -> int:
        transaction.get(JOBS, "none")
        return count_waiting(transaction)

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("error", [AWAY, TOO_LATE, CONTENDED], ids=kind)
    def test_for_a_moment_is_waited_for(
        self, store: Firestore, faults: Faults, job: Job, call: str, error: Exception
    ) -> None:
        faults.on(call, *repeat(refused(error), 3))
        assert store.transact(self.body, locking=True) == 1

    @pytest.mark.usefixtures("pauses_alone")
    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("error", [AWAY, TOO_LATE, CONTENDED], ids=kind)
    def test_for_good_is_said_with_the_remedy(
        self, project: str, others: FirestoreJobStore, job: Job, call: str, error: Exception
    ) -> None:
        store = Firestore(project, patience=SHORT)
        faults = Faults(store)
        faults.on_and_on(call, repeat(refused(error)))
        with pytest.raises(StoreUnavailable, match="try again"):
            store.transact(self.body, locking=True)
        assert faults.calls[call] > 1
        assert others.counts() == others.counts("ada")
        assert sum(count.jobs for count in others.counts()) == 1

    @pytest.mark.usefixtures("pauses_alone")
    @pytest.mark.parametrize("error", [AWAY, TOO_LATE, CONTENDED], ids=kind)
    def test_for_good_is_said_without_a_transaction_too(
        self, project: str, job: Job, error: Exception
    ) -> None:
        store = Firestore(project, patience=SHORT)
        faults = Faults(store)
        waiting = shapes.QUEUED_OF_TENANT.ask(tenant="ada", status=Status.QUEUED.value)
        asked: dict[str, Callable[[], object]] = {
            "batch_get_documents": store.now,
            "run_query": lambda: store.run(waiting),
            "run_aggregation_query": lambda: store.sums(waiting),
            "commit": lambda: store.write(JOBS, "x", {"id": "x"}),
        }
        for call, ask in asked.items():
            faults.on_and_on(call, repeat(refused(error)))
            with pytest.raises(StoreUnavailable, match="try again"):
                ask()
            assert faults.calls[call] > 1

    def test_nobody_listens_there(
        self, emulators: Hosts, monkeypatch: pytest.MonkeyPatch, project: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        jobs = FirestoreJobStore(Firestore(project, patience=SHORT))
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            jobs.update(job_id("any"), add_one)
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            jobs.claimable(per_tenant=1)

    def test_every_call_is_bounded_and_repeated_by_nobody_else(
        self, store: Firestore, faults: Faults, job: Job
    ) -> None:
        store.transact(self.body, locking=True)
        with pytest.raises(ValueError, match="stop"):
            store.transact(stop, locking=True)
        jobs = FirestoreJobStore(store)
        jobs.claimable(per_tenant=1)
        jobs.usage("ada")
        jobs.remove(job.id)
        store.write(JOBS, "x", {"id": "x"})
        assert {*CALLS, "rollback"} <= set(faults.calls)
        for timeout, retry in faults.bounds:
            assert isinstance(timeout, float)
            assert 0 < timeout <= CALL_SECONDS
            assert retry is ONCE

    @pytest.mark.parametrize("call", ["batch_get_documents", "run_query"])
    def test_what_breaks_off_is_asked_again_from_the_start(
        self, store: Firestore, faults: Faults, others: FirestoreJobStore, call: str
    ) -> None:
        created = [a_job() for _ in range(3)]
        others.create(created)
        faults.on(call, broken_off(AWAY), broken_off(TOO_LATE))
        ids = sorted(one.id for one in created)
        waiting = shapes.QUEUED_OF_TENANT.ask(tenant="ada", status=Status.QUEUED.value)
        found: dict[str, Callable[[], list[Fields]]] = {
            "batch_get_documents": lambda: list(store.get_all(JOBS, ids).values()),
            "run_query": lambda: store.run(waiting),
        }
        assert sorted(fields["id"] for fields in found[call]()) == ids
        assert faults.calls[call] == 3


def stop(transaction: Transaction) -> None:
    raise ValueError("stop")


class TestARefusal:
    @pytest.mark.parametrize("call", [*CALLS])
    @pytest.mark.parametrize(
        ("error", "remedy"),
        [
            (fault(exceptions.PermissionDenied, "no"), "Cloud Datastore User"),
            (fault(exceptions.Unauthenticated, "no"), "Cloud Datastore User"),
            (fault(exceptions.InvalidArgument, "too large"), "too large"),
        ],
        ids=str,
    )
    def test_is_final_and_names_the_remedy(
        self, store: Firestore, faults: Faults, call: str, error: Exception, remedy: str
    ) -> None:
        self.refuse(store, faults, call, error, remedy)

    @pytest.mark.parametrize("call", [name for name in CALLS if name != "commit"])
    @pytest.mark.parametrize(
        ("error", "remedy"),
        [
            (fault(exceptions.FailedPrecondition, "The query requires an index"), "illo indexes"),
            (fault(exceptions.NotFound, "The database (default) does not exist"), "ILLO_DATABASE"),
        ],
        ids=["index", "database"],
    )
    def test_of_a_database_or_an_index_that_is_missing_is_final(
        self, store: Firestore, faults: Faults, call: str, error: Exception, remedy: str
    ) -> None:
        self.refuse(store, faults, call, error, remedy)

    @staticmethod
    def refuse(store: Firestore, faults: Faults, call: str, error: Exception, remedy: str) -> None:
        faults.on_and_on(call, repeat(refused(error)))
        with pytest.raises(StoreError, match=remedy) as raised:
            store.transact(TestAStoreThatIsAway.body, locking=True)
        assert not isinstance(raised.value, StoreUnavailable)
        assert faults.calls[call] == 1
        assert faults.calls["rollback"] == (call != "begin_transaction")

    def test_of_a_missing_database_is_final_when_the_commit_says_it(
        self, store: Firestore, faults: Faults
    ) -> None:
        missing = fault(exceptions.NotFound, "The database (default) does not exist")
        faults.on_and_on("commit", repeat(refused(missing)))
        faults.on_and_on("batch_get_documents", repeat(refused(missing)))
        with pytest.raises(StoreError, match="ILLO_DATABASE") as raised:
            FirestoreJobStore(store).create([a_job()])
        assert not isinstance(raised.value, StoreUnavailable)

    def test_a_token_that_cannot_be_had_is_said(self, store: Firestore, faults: Faults) -> None:
        faults.on("batch_get_documents", refused(fault(RefreshError, "revoked")))
        with pytest.raises(StoreUnavailable, match="no token"):
            store.now()


class TestABody:
    @pytest.mark.parametrize("locking", [False, True])
    def test_that_raises_writes_nothing_and_keeps_no_lock(
        self, store: Firestore, faults: Faults, job: Job, locking: bool
    ) -> None:
        before = store.get(JOBS, job.id)

        def body(transaction: Transaction) -> None:
            rewrite(transaction, id=job.id)
            transaction.create(JOBS, "new", {"id": "new"})
            raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            store.transact(body, locking=locking)
        assert store.get(JOBS, job.id) == before
        assert store.get(JOBS, "new") is None
        assert faults.calls["commit"] == 0
        assert faults.calls["rollback"] == locking

    def test_whose_locks_cannot_be_let_go_still_says_what_it_raised(
        self, store: Firestore, faults: Faults
    ) -> None:
        faults.on("rollback", refused(AWAY))
        with pytest.raises(ValueError, match="stop"):
            store.transact(stop, locking=True)

    def test_that_writes_nothing_commits_nothing(
        self, store: Firestore, faults: Faults, job: Job
    ) -> None:
        for locking in (False, True):
            store.transact(lambda transaction: transaction.get(JOBS, job.id), locking=locking)
        assert faults.calls["commit"] == 0

    def test_that_asks_queries_needs_locks(self, store: Firestore) -> None:
        with pytest.raises(ValueError, match="locking"):
            store.transact(count_waiting)

    @pytest.mark.parametrize("locking", [False, True])
    def test_reads_what_was_there_before_its_own_writes(
        self, store: Firestore, job: Job, locking: bool
    ) -> None:
        def body(transaction: Transaction) -> Fields | None:
            rewrite(transaction, id=job.id)
            return transaction.get(JOBS, job.id)

        read = store.transact(body, locking=locking)
        assert read is not None
        assert read["id"] == job.id

    def test_that_creates_what_is_there_is_told_which(self, store: Firestore, job: Job) -> None:
        with pytest.raises(DocumentExists, match=job.id):
            store.transact(lambda transaction: transaction.create(JOBS, job.id, {"id": "mine"}))
        assert FirestoreJobStore(store).get(job.id) == job

    def test_that_deletes_what_changed_runs_again(
        self, store: Firestore, others: FirestoreJobStore, faults: Faults, job: Job
    ) -> None:
        seen = []

        def body(transaction: Transaction) -> None:
            seen.append(transaction.get(JOBS, job.id))
            transaction.delete(JOBS, job.id)

        faults.on("commit", after(lambda: others.update(job.id, add_one)))
        store.transact(body)
        assert len(seen) == 2
        assert store.get(JOBS, job.id) is None


def test_a_document_keeps_its_last_nonces_only(store: Firestore, job: Job) -> None:
    jobs = FirestoreJobStore(store)
    for _ in range(REMEMBERED_WRITES + 2):
        jobs.update(job.id, add_one)
    fields = store.get(JOBS, job.id)
    assert fields
    assert len(fields["writes"]) == len(set(fields["writes"])) == REMEMBERED_WRITES


def test_the_commit_of_200_jobs_with_the_longest_prompts_fits(jobs: FirestoreJobStore) -> None:
    plain = a_job()
    wordy = [
        replace(plain, id=job_id(("wordy", n)), scene=replace(plain.scene, prompt="雨" * 4000))
        for n in range(200)
    ]
    jobs.create(wordy)
    assert jobs.get(wordy[-1].id) == wordy[-1]


class TestAQuota:
    """Nothing is locked for it, so that claims and heartbeats need not wait."""

    def test_is_charged_without_a_lock(self, jobs: FirestoreJobStore, faults: Faults) -> None:
        jobs.create([a_job()], quota=Quota(queued_jobs=1))
        assert faults.calls["begin_transaction"] == 0

    def test_counts_again_when_another_submits_meanwhile(
        self, jobs: FirestoreJobStore, others: FirestoreJobStore, faults: Faults
    ) -> None:
        quota = Quota(queued_jobs=1)
        faults.on("commit", after(lambda: others.create([a_job()], quota=quota)))
        with pytest.raises(QuotaExceeded):
            jobs.create([a_job()], quota=quota)
        assert others.usage("ada").queued_jobs == 1

    def test_lets_the_threads_of_a_tenant_take_turns(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        """None of them has to try twice."""
        submitters = 12
        barrier = threading.Barrier(submitters)

        def submit() -> None:
            barrier.wait(timeout=30)
            jobs.create([a_job()], quota=Quota(queued_jobs=submitters))

        threads = [threading.Thread(target=submit) for _ in range(submitters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults.calls["commit"] == submitters == jobs.usage("ada").queued_jobs


@pytest.mark.parametrize("refusal", [exceptions.Aborted, exceptions.FailedPrecondition])
def test_contention_that_does_not_end_is_called_contention(
    project: str, job: Job, refusal: type[exceptions.GoogleAPICallError]
) -> None:
    store = Firestore(project, patience=SHORT)
    faults = Faults(store)
    changed = fault(refusal, "the stored version does not match the required base version")
    faults.on_and_on("commit", repeat(refused(changed)))
    with pytest.raises(StoreUnavailable, match="too many write the same at once"):
        store.transact(partial(rewrite, id=job.id))
