"""What a tenant may use, what it does use, and whether there is room for more. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from shared.batches import Batch
from shared.errors import QuotaExceeded

DAY = timedelta(days=1)


class Limit(StrEnum):
    """What is limited."""

    QUEUED_JOBS = "queued_jobs"
    JOBS_PER_DAY = "jobs_per_day"
    GPU_SECONDS_PER_DAY = "gpu_seconds_per_day"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The most that a tenant may use; None is no limit. Days begin at midnight UTC."""

    queued_jobs: int | None = None
    jobs_per_day: int | None = None
    gpu_seconds_per_day: float | None = None

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit at all, so that nobody need count."""
        return self == Quota()

    @property
    def most_at_once(self) -> int | None:
        """How many jobs fit into an unused quota; more never do."""
        limits = [most for most in (self.queued_jobs, self.jobs_per_day) if most is not None]
        return min(limits, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a tenant uses: jobs waiting, and since midnight jobs made and device seconds drawn.

    Scenes of a batch that have no job yet count as jobs that wait and were made today.
    """

    queued_jobs: int
    jobs_today: int
    gpu_seconds_today: float


def charge(quota: Quota, usage: Usage, jobs: int, now: datetime) -> Usage:
    """Add new jobs to what a tenant uses; raises QuotaExceeded if that is more than it may.

    Of several limits the one that is told is the last to give way. No jobs at all always fit, also
    where a limit was lowered below what is used.
    """
    if jobs:
        _refuse_at_once(quota, jobs)
        _refuse_today(quota, usage, jobs, now)
        _refuse_waiting(quota, usage, jobs)
    return Usage(
        queued_jobs=usage.queued_jobs + jobs,
        jobs_today=usage.jobs_today + jobs,
        gpu_seconds_today=usage.gpu_seconds_today,
    )


def pending(batch: Batch, stored: int = 0) -> int:
    """Count the scenes that have no job yet and will wait for one; a canceled batch's will not.

    `stored` scenes have their jobs already, though the batch may not have counted all of them.
    """
    return 0 if batch.canceled else max(0, batch.scene_count - max(batch.expanded, stored))


def day_of(now: datetime) -> datetime:
    """Find the midnight, in UTC, at which the day began."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def rest_of_day(now: datetime) -> timedelta:
    """Say how long it is until the next midnight in UTC."""
    return day_of(now) + DAY - now


def _refuse_at_once(quota: Quota, jobs: int) -> None:
    most = quota.most_at_once
    if most is not None and jobs > most:
        raise QuotaExceeded(
            f"{jobs:,} jobs at once never fit: the quota is {most:,}; send fewer at once",
            limit=Limit.QUEUED_JOBS if most == quota.queued_jobs else Limit.JOBS_PER_DAY,
            retry_after=None,
        )


def _refuse_today(quota: Quota, usage: Usage, jobs: int, now: datetime) -> None:
    most, ceiling = quota.jobs_per_day, quota.gpu_seconds_per_day
    if most is not None and usage.jobs_today + jobs > most:
        raise QuotaExceeded(
            f"jobs made today: {usage.jobs_today:,} of {most:,}, so {jobs:,} more do not fit; "
            "the day ends at midnight UTC",
            limit=Limit.JOBS_PER_DAY,
            retry_after=rest_of_day(now),
        )
    if ceiling is not None and usage.gpu_seconds_today >= ceiling:
        raise QuotaExceeded(
            f"today's {ceiling:g} GPU seconds are used up; the day ends at midnight UTC",
            limit=Limit.GPU_SECONDS_PER_DAY,
            retry_after=rest_of_day(now),
        )


def _refuse_waiting(quota: Quota, usage: Usage, jobs: int) -> None:
    most = quota.queued_jobs
    if most is not None and usage.queued_jobs + jobs > most:
        raise QuotaExceeded(
            f"jobs waiting: {usage.queued_jobs:,} of {most:,}, so {jobs:,} more do not fit; "
            "wait until some are drawn, or cancel some",
            limit=Limit.QUEUED_JOBS,
            retry_after=None,
        )
