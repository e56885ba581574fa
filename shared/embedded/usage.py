"""What a tenant uses, counted anew from the rows themselves whenever it is asked."""

import sqlite3
from datetime import datetime

from shared.batches import Batch
from shared.documents import from_json
from shared.embedded.database import micros
from shared.quotas import Quota, Usage, charge, day_of, pending
from shared.vocabulary import Priority

# The ranks are named because the index of waiting jobs has them before the tenant.
_QUEUED = (
    "SELECT count(*) FROM jobs WHERE status = 'queued' "  # noqa: S608 - constants only
    f"AND rank IN ({', '.join(str(priority.rank) for priority in Priority)}) AND tenant = :tenant"
)
_MADE = "SELECT count(*) FROM jobs WHERE tenant = :tenant AND created_at >= :today"
_DRAWN = (
    "SELECT total(gpu_seconds) FROM jobs "
    "WHERE tenant = :tenant AND updated_at >= :today AND gpu_seconds > 0"
)
_UNFINISHED = (
    "SELECT document, (SELECT count(*) FROM scenes WHERE batch = batches.id) FROM batches "
    "WHERE tenant = :tenant AND settled = 0"
)


def read_usage(connection: sqlite3.Connection, tenant: str, now: datetime) -> Usage:
    """See JobStore.usage."""
    values = {"tenant": tenant, "today": micros(day_of(now))}
    queued, made, drawn = connection.execute(
        f"SELECT ({_QUEUED}), ({_MADE}), ({_DRAWN})",
        values,
    ).fetchone()
    waiting = sum(
        pending(from_json(Batch, document), stored)
        for document, stored in connection.execute(_UNFINISHED, values)
    )
    return Usage(
        queued_jobs=queued + waiting,
        jobs_today=made + waiting,
        gpu_seconds_today=drawn,
    )


def charged(
    connection: sqlite3.Connection, quota: Quota | None, tenant: str, jobs: int, now: datetime
) -> Usage | None:
    """Charge new jobs before they are written; None without a quota, raises QuotaExceeded."""
    if quota is None:
        return None
    return charge(quota, read_usage(connection, tenant, now), jobs, now)
