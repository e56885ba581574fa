"""Tell the log how the queue stands: alarms and charts are made of these figures."""

import logging

from api.queue_overview import oldest_queued
from shared.quotas import day_of
from shared.settings import Settings
from shared.vocabulary import Status
from shared.wiring import Backends
from shared.workers import failed_starts

log = logging.getLogger(__name__)


def tell_queue(backends: Backends, settings: Settings) -> None:
    """Log the event `queue`; every figure is a number, so that an alarm also sees when it ends."""
    now, counted = backends.workers.now(), backends.jobs.counts()
    records, control = backends.workers.records(), backends.workers.control()
    figures = {
        "queued": sum(count.jobs for count in counted if count.status is Status.QUEUED),
        "running": sum(count.jobs for count in counted if count.status is Status.RUNNING),
        "oldest_queued_seconds": round(oldest_queued(counted, now) or 0.0, 1),
        "failed_starts": len(failed_starts(records, control, now, source=settings.weights)),
        "gpu_seconds_today": round(backends.jobs.gpu_seconds(day_of(now)), 1),
    }
    log.info("queue", extra=figures)
