"""Which unfinished jobs want something done: whose turn it is, and what has run out."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

from shared.embedded.database import micros
from shared.embedded.job_rows import read_job, read_jobs
from shared.jobs import Job
from shared.vocabulary import Priority

Line = tuple[int, str]  # a priority's rank and a tenant: who stands in line with whom


def claimable(
    connection: sqlite3.Connection, *, now: datetime, lease_over: datetime, per_tenant: int
) -> list[Job]:
    """List the first due jobs of each line, then those whose lease was over at `lease_over`."""
    found = []
    for rank, tenant in lines(connection):
        found += connection.execute(
            "SELECT document FROM jobs WHERE id IN (SELECT id FROM jobs "
            "WHERE status = 'queued' AND rank = ? AND tenant = ? AND not_before <= ? "
            "AND NOT cancel_wished ORDER BY created_at, id LIMIT ?) ORDER BY created_at, id",
            (rank, tenant, micros(now), per_tenant),
        ).fetchall()
    found += connection.execute(
        "SELECT document FROM (SELECT document, lease_expires_at, row_number() OVER "
        "(PARTITION BY rank, tenant ORDER BY created_at, id) AS place FROM jobs "
        "WHERE status = 'running' AND lease_expires_at < ? AND NOT cancel_wished) "
        "WHERE place <= ? ORDER BY lease_expires_at",
        (micros(lease_over), per_tenant),
    ).fetchall()
    return read_jobs(found)


def wakeable(connection: sqlite3.Connection, limit: int, *, now: datetime) -> list[Job]:
    """List queued jobs to be woken: the first of each line, then the second of each, and so on."""
    places = []
    for rank, tenant in lines(connection):
        line = connection.execute(
            "SELECT created_at, id FROM jobs WHERE status = 'queued' AND rank = ? AND tenant = ? "
            "AND wake_at <= ? ORDER BY created_at, id LIMIT ?",
            (rank, tenant, micros(now), limit),
        )
        places += [(place, rank, *age) for place, age in enumerate(line)]
    chosen = [job for *_, job in sorted(places)[:limit]]
    return [read_job(connection, job) for job in chosen]


def silent(connection: sqlite3.Connection, limit: int, *, now: datetime) -> list[Job]:
    """See JobStore.silent."""
    return _documents(
        connection,
        "status = 'running' AND lease_expires_at < ? ORDER BY lease_expires_at LIMIT ?",
        micros(now),
        limit,
    )


def overdue(
    connection: sqlite3.Connection,
    limit: int,
    *,
    queued_before: datetime,
    claimed_before: datetime,
) -> list[Job]:
    """See JobStore.overdue."""
    running = _documents(
        connection,
        "status = 'running' AND claimed_at < ? ORDER BY claimed_at LIMIT ?",
        micros(claimed_before),
        limit,
    )
    queued = _documents(
        connection,
        "status = 'queued' AND created_at < ? ORDER BY created_at LIMIT ?",
        micros(queued_before),
        limit - len(running),
    )
    return running + queued


def lines(connection: sqlite3.Connection) -> Iterator[Line]:
    """List who waits, by jumping along the index: ten thousand jobs of one line are one jump."""
    for priority in Priority:
        tenant: str | None = ""  # nobody's name; SQLite jumps only where a single column rises
        while True:
            (tenant,) = connection.execute(
                "SELECT min(tenant) FROM jobs WHERE status = 'queued' AND rank = ? AND tenant > ?",
                (priority.rank, tenant),
            ).fetchone()
            if tenant is None:
                break
            yield priority.rank, tenant


def _documents(connection: sqlite3.Connection, where: str, *values: object) -> list[Job]:
    return read_jobs(
        connection.execute(f"SELECT document FROM jobs WHERE {where}", values)  # noqa: S608
    )
