"""Sum up the queue as a whole."""

from collections.abc import Sequence
from datetime import datetime

from api.queue_view import read_standing
from api.responses import QueueOverviewBody
from shared.holds import day_of
from shared.ports import QueueCount
from shared.settings import Settings
from shared.vocabulary import Priority, Status
from shared.wiring import Backends


def overview(backends: Backends, settings: Settings) -> QueueOverviewBody:
    """Count what waits and say whether anything new is drawn."""
    standing = read_standing(backends, settings)
    control = backends.workers.control()
    counted = backends.jobs.counts()
    return QueueOverviewBody(
        object="queue",
        paused=control.paused,
        reason=standing.stopped,
        changed_at=control.changed_at,
        counts={"queued": _of(counted, Status.QUEUED), "running": _of(counted, Status.RUNNING)},
        oldest_queued_seconds=_oldest(counted, standing.now),
        gpu_seconds_today=backends.jobs.gpu_seconds(day_of(standing.now)),
        gpu_seconds_per_day=settings.gpu_seconds_per_day,
    )


def _of(counted: Sequence[QueueCount], status: Status) -> dict[Priority, int]:
    return {
        priority: sum(c.jobs for c in counted if (c.status, c.priority) == (status, priority))
        for priority in Priority
    }


def _oldest(counted: Sequence[QueueCount], now: datetime) -> float | None:
    waiting = [count.oldest for count in counted if count.status is Status.QUEUED]
    return max(0.0, (now - min(waiting)).total_seconds()) if waiting else None
