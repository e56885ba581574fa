"""Sum up the queue as a whole, as far as it is a caller's business."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from api.queue_view import read_standing
from api.responses import QueueOverviewBody
from api.tenants import Caller
from shared.errors import JobNotFound
from shared.keys import Scope
from shared.ports import QueueCount
from shared.quotas import day_of
from shared.settings import Settings
from shared.vocabulary import Priority, Status
from shared.wiring import Backends
from shared.workers import WorkerRecord


def overview(backends: Backends, settings: Settings, caller: Caller) -> QueueOverviewBody:
    """Count what waits and say whether anything new is drawn.

    An operator sees the jobs of all, who may not pause the queue only those of their own tenant.
    """
    standing = read_standing(backends, settings)
    control = backends.workers.control()
    counted = backends.jobs.counts(None if Scope.ADMIN in caller.scopes else caller.tenant)
    return QueueOverviewBody(
        object="queue",
        paused=control.paused,
        reason=standing.stopped,
        changed_at=control.changed_at,
        counts={"queued": _of(counted, Status.QUEUED), "running": _of(counted, Status.RUNNING)},
        oldest_queued_seconds=oldest_queued(counted, standing.now),
        gpu_seconds_today=backends.jobs.gpu_seconds(day_of(standing.now)),
        gpu_seconds_per_day=settings.gpu_seconds_per_day,
    )


def oldest_queued(counted: Sequence[QueueCount], now: datetime) -> float | None:
    """Say for how many seconds the oldest waiting job has been there; None if none waits."""
    waiting = [count.oldest for count in counted if count.status is Status.QUEUED]
    return max(0.0, (now - min(waiting)).total_seconds()) if waiting else None


def without_others(record: WorkerRecord, caller: Caller, backends: Backends) -> WorkerRecord:
    """Leave out which job a worker draws if it is another tenant's."""
    if record.job is None or caller.key_id is None:
        return record
    try:
        own = backends.jobs.get(record.job).tenant == caller.tenant
    except JobNotFound:
        own = False
    return record if own else replace(record, job=None)


def _of(counted: Sequence[QueueCount], status: Status) -> dict[Priority, int]:
    return {
        priority: sum(c.jobs for c in counted if (c.status, c.priority) == (status, priority))
        for priority in Priority
    }
