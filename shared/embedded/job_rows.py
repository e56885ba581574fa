"""Jobs as rows: the document, and the columns that queries need beside it."""

import sqlite3
from collections.abc import Iterable
from datetime import datetime

from shared.documents import from_json, to_json
from shared.embedded.database import micros
from shared.errors import JobExists, JobNotFound
from shared.jobs import Job

_COLUMNS = (
    "id", "document", "tenant", "status", "rank", "recipe", "created_at", "updated_at",
    "expire_at", "not_before", "wake_at", "claimed_at", "lease_expires_at", "cleanup_due",
    "deleted", "cancel_wished", "batch", "scene_key", "take", "superseded", "megapixel_steps",
    "gpu_seconds",
)  # fmt: skip
_INSERT = (
    f"INSERT INTO jobs ({', '.join(_COLUMNS)}) "  # noqa: S608 - constants only
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) ON CONFLICT (id) DO NOTHING"
)
_UPDATE = (
    f"UPDATE jobs SET {', '.join(f'{name} = :{name}' for name in _COLUMNS[1:])} "  # noqa: S608
    "WHERE id = :id"
)


def read_job(connection: sqlite3.Connection, id: str) -> Job:
    """Read a job; raises JobNotFound."""
    row = connection.execute("SELECT document FROM jobs WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise JobNotFound(f"{id}: there is no such job")
    return from_json(Job, row[0])


def read_jobs(rows: Iterable[tuple[str]]) -> list[Job]:
    """Read the jobs of a query for documents."""
    return [from_json(Job, document) for (document,) in rows]


def insert_job(connection: sqlite3.Connection, job: Job) -> None:
    """Write a new job; raises JobExists."""
    if not add_job(connection, job):
        raise JobExists(f"{job.id} is stored already")


def add_job(connection: sqlite3.Connection, job: Job) -> bool:
    """Write a new job, or keep the one that has its id; say whether it is new."""
    new = connection.execute(_INSERT, _row(job)).rowcount > 0
    if new and not job.status.final:
        connection.executemany(
            "INSERT OR IGNORE INTO drawn_from (asset, job) VALUES (?, ?)",
            [(reference.asset, job.id) for reference in job.scene.references],
        )
    return new


def write_job(connection: sqlite3.Connection, job: Job) -> None:
    """Write a job that is stored already."""
    connection.execute(_UPDATE, _row(job))
    if job.status.final:
        connection.execute("DELETE FROM drawn_from WHERE job = ?", (job.id,))


def delete_job(connection: sqlite3.Connection, id: str) -> None:
    """Remove a job and what is kept beside it."""
    connection.execute("DELETE FROM jobs WHERE id = ?", (id,))
    connection.execute("DELETE FROM drawn_from WHERE job = ?", (id,))


def _row(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "document": to_json(job),
        "tenant": job.tenant,
        "status": job.status.value,
        "rank": job.priority.rank,
        "recipe": job.recipe,
        "created_at": micros(job.created_at),
        "updated_at": micros(job.updated_at),
        "expire_at": micros(job.expire_at),
        "not_before": micros(job.not_before),
        "wake_at": micros(job.wake_at),
        "claimed_at": _maybe(job.claimed_at),
        "lease_expires_at": _maybe(job.lease.expires_at if job.lease else None),
        "cleanup_due": _maybe(job.cleanup_due),
        "deleted": job.deleted_at is not None,
        "cancel_wished": job.cancel_requested_at is not None,
        "batch": job.batch,
        "scene_key": job.scene_key,
        "take": job.take,
        "superseded": job.superseded,
        "megapixel_steps": job.scene.megapixel_steps,
        "gpu_seconds": job.metrics.gpu_seconds,
    }


def _maybe(instant: datetime | None) -> int | None:
    return None if instant is None else micros(instant)
