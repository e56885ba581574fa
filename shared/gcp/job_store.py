"""The queue of record in Firestore."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

from shared.batches import PAGE, Take, refuse_more_than
from shared.documents import to_json
from shared.errors import IdempotencyRecorded, QuotaExceeded
from shared.gcp import job_lists, job_queries, job_sums, shapes
from shared.gcp.firestore import Firestore
from shared.gcp.idempotency import name_of, record_of, write_record
from shared.gcp.job_changes import change_some, changed
from shared.gcp.job_documents import (
    create_job,
    exists,
    job_of,
    not_found,
    read_job,
)
from shared.gcp.pages import cursor_of, place_of
from shared.gcp.shapes import ANSWERS, JOBS
from shared.gcp.transactions import DocumentExists, Transaction
from shared.gcp.usage import Turns, charge_jobs, usage_of
from shared.jobs import Job, Terms
from shared.ports import Ahead, IdempotencyRecord, JobChange, JobFilter, Page, QueueCount
from shared.quotas import Quota, Usage
from shared.vocabulary import Status


class FirestoreJobStore:
    """See JobStore."""

    def __init__(self, firestore: Firestore, *, terms: Terms | None = None) -> None:
        self._firestore = firestore
        self._steal_grace = (terms or Terms()).steal_grace
        self._turns = Turns(firestore.patience)

    def recall(self, tenant: str, path: str, key_sha256: str) -> IdempotencyRecord | None:
        """See IdempotencyStore.recall."""
        name = name_of(tenant, path, key_sha256)
        return self._firestore.transact(lambda tx: record_of(tx.get(ANSWERS, name), tx.now))

    def remember(self, record: IdempotencyRecord) -> None:
        """See IdempotencyStore.remember."""
        self._firestore.transact(lambda tx: write_record(tx, record))

    def create(
        self,
        jobs: Sequence[Job],
        *,
        record: IdempotencyRecord | None = None,
        quota: Quota | None = None,
    ) -> Usage | None:
        """See JobStore.create."""
        refuse_more_than(PAGE, len(jobs), "jobs")

        def body(tx: Transaction) -> Usage | None:
            if record:
                write_record(tx, record)
            usage = _charge(tx, jobs, quota)
            for job in jobs:
                create_job(tx, job)
            return usage

        try:
            with self._turns.of(jobs[0].tenant if jobs else "", quota):
                return self._firestore.transact(body)
        except DocumentExists:
            self._refuse_recorded(record)
            _refuse_taken(self._firestore, jobs)
            raise

    def get(self, id: str) -> Job:
        """See JobStore.get."""
        fields = self._firestore.get(JOBS, id)
        if fields is None:
            raise not_found(id)
        return job_of(fields)

    def get_all(self, ids: Sequence[str]) -> dict[str, Job]:
        """See JobStore.get_all."""
        found = self._firestore.get_all(JOBS, ids)
        return {id: job_of(fields) for id, fields in found.items()}

    def update(self, id: str, change: JobChange) -> Job:
        """See JobStore.update."""

        def body(tx: Transaction) -> Job:
            before = read_job(tx, id)
            return changed(tx, before, change)

        return self._firestore.transact(body)

    def update_all(self, ids: Sequence[str], change: JobChange) -> None:
        """See JobStore.update_all."""
        refuse_more_than(PAGE, len(ids), "jobs")
        left = list(dict.fromkeys(ids))
        while left:
            done = self._firestore.transact(partial(change_some, ids=left, change=change))
            left = left[done:]

    def remove(self, id: str) -> None:
        """See JobStore.remove."""
        self._firestore.delete(JOBS, id)

    def claimable(self, *, per_tenant: int) -> list[Job]:
        """See JobStore.claimable."""
        now = self._firestore.now()
        return job_queries.claimable(
            self._firestore, now=now, lease_over=now - self._steal_grace, per_tenant=per_tenant
        )

    def wakeable(self, limit: int) -> list[Job]:
        """See JobStore.wakeable."""
        return job_queries.wakeable(self._firestore, limit, now=self._firestore.now())

    def silent(self, limit: int) -> list[Job]:
        """See JobStore.silent."""
        return job_queries.silent(self._firestore, limit, now=self._firestore.now())

    def overdue(
        self, limit: int, *, queued_before: datetime, claimed_before: datetime
    ) -> list[Job]:
        """See JobStore.overdue."""
        return job_queries.overdue(
            self._firestore, limit, queued_before=queued_before, claimed_before=claimed_before
        )

    def untidy(self, limit: int) -> list[Job]:
        """See JobStore.untidy."""
        return job_lists.untidy(self._firestore, limit, now=self._firestore.now())

    def retired(self, limit: int) -> list[Job]:
        """See JobStore.retired."""
        return job_lists.retired(self._firestore, limit, now=self._firestore.now())

    def find(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page[Job]:
        """See JobStore.find."""
        of = f"jobs {to_json(filter)}"
        after = place_of(cursor, of=of) if cursor is not None else None
        found = job_lists.newest(self._firestore, filter, limit=limit + 1, after=after)
        jobs = found[:limit]
        more = len(found) > limit and jobs
        last = cursor_of((jobs[-1].created_at, jobs[-1].id), of=of) if more else None
        return Page(items=tuple(jobs), cursor=last)

    def counts(self, tenant: str | None = None) -> list[QueueCount]:
        """See JobStore.counts."""
        return job_sums.counts(self._firestore, tenant)

    def ahead(self, job: Job) -> Ahead:
        """See JobStore.ahead."""
        return job_sums.ahead(self._firestore, job)

    def gpu_seconds(self, since: datetime) -> float:
        """See JobStore.gpu_seconds."""
        return job_sums.gpu_seconds(self._firestore, since)

    def usage(self, tenant: str) -> Usage:
        """See JobStore.usage."""
        return usage_of(self._firestore, tenant)

    def needs_asset(self, asset: str) -> bool:
        """See JobStore.needs_asset."""
        ask = shapes.DRAWN_FROM.ask(draws_from=asset, limit=1, select=("id",))
        return bool(self._firestore.run(ask))

    def takes(self, batch: str, keys: Sequence[str] | None = None) -> list[Take]:
        """See JobStore.takes."""
        return job_lists.takes(self._firestore, batch, keys)

    def batch_counts(self, batch: str) -> Mapping[Status, int]:
        """See JobStore.batch_counts."""
        return job_sums.batch_counts(self._firestore, batch)

    def batch_gpu_seconds(self, batch: str) -> float:
        """See JobStore.batch_gpu_seconds."""
        return job_sums.batch_gpu_seconds(self._firestore, batch)

    def _refuse_recorded(self, record: IdempotencyRecord | None) -> None:
        """Raise IdempotencyRecorded: who took an id may have used the key as well."""
        there = record and self.recall(record.tenant, record.path, record.key_sha256)
        if there:
            raise IdempotencyRecorded(there)


def _charge(tx: Transaction, jobs: Sequence[Job], quota: Quota | None) -> Usage | None:
    if not jobs:
        return None
    try:
        return charge_jobs(tx, jobs[0].tenant, len(jobs), quota)
    except QuotaExceeded:
        _refuse_taken(tx, jobs)
        raise


def _refuse_taken(reader: Transaction | Firestore, jobs: Sequence[Job]) -> None:
    """Raise JobExists if one of the ids is taken."""
    for id in reader.get_all(JOBS, [job.id for job in jobs]):
        raise exists(id)
