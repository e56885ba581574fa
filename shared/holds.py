"""Say why nothing new is drawn, or woken, at the moment; the API and the worker agree on it."""

from datetime import datetime

from shared.ports import JobStore, WorkerStore
from shared.quotas import day_of
from shared.settings import Settings
from shared.workers import QueueControl, starts_blocked


def why_held(jobs: JobStore, workers: WorkerStore, settings: Settings) -> str | None:
    """Say why no worker may claim a job now, or None while it may."""
    return _why_held(jobs, workers.control(), settings, workers.now())


def why_not_woken(jobs: JobStore, workers: WorkerStore, settings: Settings) -> str | None:
    """Say why no message may be sent now, or None: claiming is held, or starts keep failing."""
    control, now = workers.control(), workers.now()
    return _why_held(jobs, control, settings, now) or starts_blocked(
        workers.records(), control, now, source=settings.weights
    )


def _why_held(
    jobs: JobStore, control: QueueControl, settings: Settings, now: datetime
) -> str | None:
    if control.paused:
        return f"the queue is paused: {control.reason}" if control.reason else "the queue is paused"
    if jobs.gpu_seconds(day_of(now)) >= settings.gpu_seconds_per_day:
        return (
            f"today's {settings.gpu_seconds_per_day:g} GPU seconds are used up; drawing goes on "
            "at midnight UTC, or with a higher ILLO_GPU_SECONDS_PER_DAY"
        )
    return None
