"""Lists of jobs that people and the clean-up ask for."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from itertools import chain

from shared.batches import Take
from shared.embedded.database import micros
from shared.embedded.job_rows import read_jobs
from shared.jobs import Job
from shared.ports import JobFilter
from shared.vocabulary import Status

_HAS_METADATA = (
    "EXISTS (SELECT 1 FROM json_each(document, '$.metadata') WHERE key = ? AND value = ?)"
)


def newest(
    connection: sqlite3.Connection,
    filter: JobFilter,
    *,
    limit: int,
    after: tuple[int, str] | None,
) -> list[Job]:
    """List a tenant's jobs, newest first, those behind `after`."""
    since = filter.created_after
    conditions: list[tuple[str, tuple[object, ...] | None]] = [
        ("tenant = ?", (filter.tenant,)),
        ("deleted = 0", ()),
        ("status = ?", None if filter.status is None else (filter.status.value,)),
        ("batch = ?", None if filter.batch is None else (filter.batch,)),
        ("created_at > ?", None if since is None else (micros(since),)),
        (_HAS_METADATA, filter.metadata),
        ("(created_at, id) < (?, ?)", after),
    ]
    asked = [(text, values) for text, values in conditions if values is not None]
    where = " AND ".join(text for text, _ in asked)
    return read_jobs(
        connection.execute(
            f"SELECT document FROM jobs WHERE {where} "  # noqa: S608 - constants only
            "ORDER BY created_at DESC, id DESC LIMIT ?",
            (*chain.from_iterable(values for _, values in asked), limit),
        )
    )


def untidy(connection: sqlite3.Connection, limit: int, *, now: datetime) -> list[Job]:
    """See JobStore.untidy."""
    select = "SELECT document FROM jobs WHERE cleanup_due <= ? ORDER BY cleanup_due LIMIT ?"
    return read_jobs(connection.execute(select, (micros(now), limit)))


def retired(connection: sqlite3.Connection, limit: int, *, now: datetime) -> list[Job]:
    """See JobStore.retired."""
    select = (
        "SELECT document FROM jobs WHERE expire_at <= ? "
        "AND status NOT IN ('queued', 'running') ORDER BY expire_at LIMIT ?"
    )
    return read_jobs(connection.execute(select, (micros(now), limit)))


def takes(connection: sqlite3.Connection, batch: str, keys: Sequence[str] | None) -> list[Take]:
    """See JobStore.takes."""
    rows = connection.execute(
        "SELECT id, scene_key, take, status, recipe FROM jobs WHERE batch = :batch "
        "AND (:keys IS NULL OR scene_key IN (SELECT value FROM json_each(:keys))) "
        "AND deleted = 0 ORDER BY scene_key, take",
        {"batch": batch, "keys": None if keys is None else json.dumps(list(keys))},
    )
    return [
        Take(job=job, key=key, take=take, status=Status(status), recipe=recipe)
        for job, key, take, status, recipe in rows
    ]
