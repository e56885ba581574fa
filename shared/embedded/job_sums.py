"""What is counted and summed up over jobs."""

import sqlite3
from datetime import datetime

from shared.embedded.database import instant, micros
from shared.embedded.job_queries import Line, lines
from shared.jobs import Job
from shared.ports import Ahead, QueueCount
from shared.vocabulary import Priority, Status

_QUEUED = "SELECT megapixel_steps FROM jobs WHERE status = 'queued'"
_RUNNING = "SELECT megapixel_steps FROM jobs WHERE status = 'running'"
_IN_LINE = f"{_QUEUED} AND rank = ? AND tenant = ?"


def counts(connection: sqlite3.Connection, tenant: str | None) -> list[QueueCount]:
    """See JobStore.counts."""
    rows = connection.execute(
        "SELECT status, rank, count(*), min(created_at) FROM jobs "
        "WHERE status IN ('queued', 'running') AND (:tenant IS NULL OR tenant = :tenant) "
        "GROUP BY status, rank ORDER BY status, rank",
        {"tenant": tenant},
    )
    return [
        QueueCount(
            status=Status(status),
            priority=list(Priority)[rank],
            jobs=jobs,
            oldest=instant(oldest),
        )
        for status, rank, jobs, oldest in rows
    ]


def ahead(connection: sqlite3.Connection, job: Job) -> Ahead:
    """Sum up what goes before a queued job while the tenants of its priority take turns.

    Running jobs, higher priorities, its tenant's older jobs; and of every other tenant as many as
    get their turn before it: a newcomer does not wait for another's ten thousand scenes.
    """
    rank, age = job.priority.rank, (micros(job.created_at), job.id)
    own = _sum(connection, f"{_IN_LINE} AND (created_at, id) < (?, ?)", rank, job.tenant, *age)
    # not itself: it may run by now
    running = _sum(connection, f"{_RUNNING} AND id <> ?", job.id)
    urgent = _sum(connection, f"{_QUEUED} AND rank < ?", rank)
    rivals = [
        _turns_before(connection, line, own.jobs, age)
        for line in lines(connection)
        if line[0] == rank and line[1] != job.tenant
    ]
    return _total(running, urgent, own, *rivals)


def gpu_seconds(connection: sqlite3.Connection, since: datetime) -> float:
    """See JobStore.gpu_seconds."""
    select = "SELECT total(gpu_seconds) FROM jobs WHERE updated_at >= ?"
    return float(connection.execute(select, (micros(since),)).fetchone()[0])


def batch_counts(connection: sqlite3.Connection, batch: str) -> dict[Status, int]:
    """See JobStore.batch_counts."""
    rows = connection.execute(
        "SELECT status, count(*) FROM jobs "
        "WHERE batch = ? AND NOT superseded AND NOT deleted GROUP BY status",
        (batch,),
    )
    return {Status(status): jobs for status, jobs in rows}


def batch_gpu_seconds(connection: sqlite3.Connection, batch: str) -> float:
    """See JobStore.batch_gpu_seconds."""
    select = "SELECT total(gpu_seconds) FROM jobs WHERE batch = ?"
    return float(connection.execute(select, (batch,)).fetchone()[0])


def _turns_before(
    connection: sqlite3.Connection, line: Line, place: int, age: tuple[int, str]
) -> Ahead:
    """Sum up another line's first jobs: as many as `place`, and the next one if it is older."""
    first = _sum(connection, f"{_IN_LINE} ORDER BY created_at, id LIMIT ?", *line, place)
    rival = _sum(
        connection,
        "SELECT megapixel_steps FROM (SELECT created_at, id, megapixel_steps FROM jobs "
        "WHERE status = 'queued' AND rank = ? AND tenant = ? "
        "ORDER BY created_at, id LIMIT 1 OFFSET ?) WHERE (created_at, id) < (?, ?)",
        *line,
        place,
        *age,
    )
    return _total(first, rival)


def _sum(connection: sqlite3.Connection, select: str, *values: object) -> Ahead:
    jobs, work = connection.execute(
        f"SELECT count(*), total(megapixel_steps) FROM ({select})",  # noqa: S608 - constants only
        values,
    ).fetchone()
    return Ahead(jobs=jobs, megapixel_steps=work)


def _total(*parts: Ahead) -> Ahead:
    return Ahead(
        jobs=sum(part.jobs for part in parts),
        megapixel_steps=sum(part.megapixel_steps for part in parts),
    )
