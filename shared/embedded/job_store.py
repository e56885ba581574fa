"""The queue of record in SQLite."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from shared.batches import PAGE, Take, groups, refuse_more_than
from shared.cursors import decode_cursor, encode_cursor
from shared.documents import to_json
from shared.embedded import job_lists, job_queries, job_sums
from shared.embedded.database import Database, micros
from shared.embedded.idempotency import read_record, write_record
from shared.embedded.job_rows import delete_job, insert_job, read_job, read_jobs, write_job
from shared.embedded.usage import read_usage
from shared.errors import JobError, JobNotFound
from shared.jobs import Job, Terms, stamp
from shared.ports import Ahead, IdempotencyRecord, JobChange, JobFilter, Page, QueueCount
from shared.quotas import Quota, Usage, charge
from shared.vocabulary import Status


class SqliteJobStore:
    """See JobStore."""

    def __init__(self, database: Database, *, terms: Terms | None = None) -> None:
        self._database = database
        self._steal_grace = (terms or Terms()).steal_grace

    def recall(self, tenant: str, path: str, key_sha256: str) -> IdempotencyRecord | None:
        """See IdempotencyStore.recall."""
        with self._database.read() as connection:
            return read_record(
                connection, self._now(), tenant=tenant, path=path, key_sha256=key_sha256
            )

    def remember(self, record: IdempotencyRecord) -> None:
        """See IdempotencyStore.remember."""
        with self._database.write() as connection:
            write_record(connection, record, self._now())

    def create(
        self,
        jobs: Sequence[Job],
        *,
        record: IdempotencyRecord | None = None,
        quota: Quota | None = None,
    ) -> Usage | None:
        """See JobStore.create."""
        refuse_more_than(PAGE, len(jobs), "jobs")
        with self._database.write() as connection:
            now = self._now()
            if record:
                write_record(connection, record, now)
            before = read_usage(connection, jobs[0].tenant, now) if quota and jobs else None
            for job in jobs:
                insert_job(connection, job)
            return charge(quota, before, len(jobs), now) if quota and before else None

    def get(self, id: str) -> Job:
        """See JobStore.get."""
        with self._database.read() as connection:
            return read_job(connection, id)

    def get_all(self, ids: Sequence[str]) -> dict[str, Job]:
        """See JobStore.get_all."""
        select = "SELECT document FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
        found = dict[str, Job]()
        for group in groups(ids):
            with self._database.read() as connection:
                jobs = read_jobs(connection.execute(select, (json.dumps(group),)))
            found |= {job.id: job for job in jobs}
        return found

    def update(self, id: str, change: JobChange) -> Job:
        """See JobStore.update."""
        with self._database.write() as connection:
            before, now = read_job(connection, id), self._now()
            after = change(before, now)
            if after is before:
                return before
            stored = stamp(before, after, now)
            write_job(connection, stored)
        return stored

    def update_all(self, ids: Sequence[str], change: JobChange) -> None:
        """See JobStore.update_all."""
        refuse_more_than(PAGE, len(ids), "jobs")
        with self._database.write() as connection:
            now = self._now()
            for id in dict.fromkeys(ids):
                with suppress(JobNotFound, JobError):
                    before = read_job(connection, id)
                    after = change(before, now)
                    if after is not before:
                        write_job(connection, stamp(before, after, now))

    def remove(self, id: str) -> None:
        """See JobStore.remove."""
        with self._database.write() as connection:
            delete_job(connection, id)

    def claimable(self, *, per_tenant: int) -> list[Job]:
        """See JobStore.claimable."""
        now = self._now()
        with self._database.read() as connection:
            return job_queries.claimable(
                connection, now=now, lease_over=now - self._steal_grace, per_tenant=per_tenant
            )

    def wakeable(self, limit: int) -> list[Job]:
        """See JobStore.wakeable."""
        with self._database.read() as connection:
            return job_queries.wakeable(connection, limit, now=self._now())

    def silent(self, limit: int) -> list[Job]:
        """See JobStore.silent."""
        with self._database.read() as connection:
            return job_queries.silent(connection, limit, now=self._now())

    def overdue(
        self, limit: int, *, queued_before: datetime, claimed_before: datetime
    ) -> list[Job]:
        """See JobStore.overdue."""
        with self._database.read() as connection:
            return job_queries.overdue(
                connection, limit, queued_before=queued_before, claimed_before=claimed_before
            )

    def untidy(self, limit: int) -> list[Job]:
        """See JobStore.untidy."""
        with self._database.read() as connection:
            return job_lists.untidy(connection, limit, now=self._now())

    def retired(self, limit: int) -> list[Job]:
        """See JobStore.retired."""
        with self._database.read() as connection:
            return job_lists.retired(connection, limit, now=self._now())

    def find(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page[Job]:
        """See JobStore.find."""
        of = f"jobs {to_json(filter)}"
        after = decode_cursor(cursor, of=of) if cursor is not None else None
        with self._database.read() as connection:
            found = job_lists.newest(connection, filter, limit=limit + 1, after=after)
        jobs = found[:limit]
        more = len(found) > limit and jobs
        last = encode_cursor(micros(jobs[-1].created_at), jobs[-1].id, of=of) if more else None
        return Page(items=tuple(jobs), cursor=last)

    def counts(self, tenant: str | None = None) -> list[QueueCount]:
        """See JobStore.counts."""
        with self._database.read() as connection:
            return job_sums.counts(connection, tenant)

    def ahead(self, job: Job) -> Ahead:
        """See JobStore.ahead."""
        with self._database.read() as connection:
            return job_sums.ahead(connection, job)

    def gpu_seconds(self, since: datetime) -> float:
        """See JobStore.gpu_seconds."""
        with self._database.read() as connection:
            return job_sums.gpu_seconds(connection, since)

    def usage(self, tenant: str) -> Usage:
        """See JobStore.usage."""
        with self._database.read() as connection:
            return read_usage(connection, tenant, self._now())

    def needs_asset(self, asset: str) -> bool:
        """See JobStore.needs_asset."""
        select = "SELECT 1 FROM drawn_from WHERE asset = ? LIMIT 1"
        with self._database.read() as connection:
            return connection.execute(select, (asset,)).fetchone() is not None

    def takes(self, batch: str, keys: Sequence[str] | None = None) -> list[Take]:
        """See JobStore.takes."""
        with self._database.read() as connection:
            return job_lists.takes(connection, batch, keys)

    def batch_counts(self, batch: str) -> Mapping[Status, int]:
        """See JobStore.batch_counts."""
        with self._database.read() as connection:
            return job_sums.batch_counts(connection, batch)

    def batch_gpu_seconds(self, batch: str) -> float:
        """See JobStore.batch_gpu_seconds."""
        with self._database.read() as connection:
            return job_sums.batch_gpu_seconds(connection, batch)

    def _now(self) -> datetime:
        return self._database.clock.now()
