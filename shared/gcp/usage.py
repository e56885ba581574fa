"""What a tenant uses, counted by queries: there is no counter to drift or to get hot."""

from shared.gcp import shapes
from shared.gcp.firestore import Firestore
from shared.gcp.transactions import Transaction
from shared.quotas import Quota, Usage, charge, day_of
from shared.vocabulary import Status


def charge_jobs(
    transaction: Transaction, tenant: str, jobs: int, quota: Quota | None
) -> Usage | None:
    """Charge new jobs in a locking transaction, without a quota nothing; raises QuotaExceeded."""
    if quota is None:
        return None
    return charge(quota, usage_of(transaction, tenant), jobs, transaction.now)


def usage_of(reader: Transaction | Firestore, tenant: str) -> Usage:
    """Count what a tenant uses."""
    now = reader.now() if isinstance(reader, Firestore) else reader.now
    today = day_of(now)
    waiting = shapes.QUEUED_OF_TENANT.ask(tenant=tenant, status=Status.QUEUED.value)
    pending = reader.sums(shapes.PENDING_OF_TENANT.ask(tenant=tenant, settled=False))
    to_come = int(pending.of["pending"])
    return Usage(
        queued_jobs=reader.sums(waiting).count + to_come,
        jobs_today=reader.sums(shapes.MADE_SINCE.ask(tenant=tenant, created_at=today)).count
        + to_come,
        gpu_seconds_today=reader.sums(shapes.DRAWN_SINCE.ask(tenant=tenant, updated_at=today)).of[
            "gpu_seconds"
        ],
    )
