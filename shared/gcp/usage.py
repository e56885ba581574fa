"""What a tenant uses, counted by queries when something is submitted: no counter that could drift.

A query takes locks on all that it counts, and every claim and heartbeat would wait for them. So
nothing is locked: who submits reads and writes the tenant's document of submissions, and of two at
once the later one is refused, counts again and finds the other's jobs.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from shared.errors import StoreUnavailable
from shared.gcp import shapes
from shared.gcp.firestore import Firestore, Sums
from shared.gcp.shapes import SUBMISSIONS, Ask
from shared.gcp.transactions import Transaction
from shared.quotas import Quota, Usage, charge, day_of
from shared.vocabulary import Status


class Turns:
    """Lets submissions of one tenant through one after the other; the rest is decided elsewhere.

    It spares this process the tries that its own threads would refuse each other.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._turns: dict[str, threading.Lock] = {}

    @contextmanager
    def of(self, tenant: str, quota: Quota | None) -> Iterator[None]:
        """Wait for a tenant's turn, if there is something to charge; raises StoreUnavailable."""
        if quota is None:
            yield
            return
        turn = self._turns.setdefault(tenant, threading.Lock())
        if not turn.acquire(timeout=self._patience):
            raise StoreUnavailable(f"too many submissions of {tenant} at once; try again")
        try:
            yield
        finally:
            turn.release()


def charge_jobs(
    transaction: Transaction, tenant: str, jobs: int, quota: Quota | None
) -> Usage | None:
    """Charge new jobs, without a quota nothing; raises QuotaExceeded."""
    if quota is None:
        return None
    transaction.get(SUBMISSIONS, tenant)  # before it is counted: what is committed since, is seen
    usage = _count(transaction.glance, tenant, transaction.now)
    after = charge(quota, usage, jobs, transaction.now)
    transaction.write(SUBMISSIONS, tenant, {"tenant": tenant})
    return after


def usage_of(firestore: Firestore, tenant: str) -> Usage:
    """Count what a tenant uses."""
    return _count(firestore.sums, tenant, firestore.now())


def _count(sums: Callable[[Ask], Sums], tenant: str, now: datetime) -> Usage:
    today = day_of(now)
    waiting = shapes.QUEUED_OF_TENANT.ask(tenant=tenant, status=Status.QUEUED.value)
    to_come = int(sums(shapes.PENDING_OF_TENANT.ask(tenant=tenant, settled=False)).of["pending"])
    made = sums(shapes.MADE_SINCE.ask(tenant=tenant, created_at=today)).count
    drawn = sums(shapes.DRAWN_SINCE.ask(tenant=tenant, updated_at=today)).of["gpu_seconds"]
    return Usage(
        queued_jobs=sums(waiting).count + to_come,
        jobs_today=made + to_come,
        gpu_seconds_today=drawn,
    )
