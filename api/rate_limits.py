"""Quotas over HTTP: judge a submission beforehand, refuse what does not fit, tell what is left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil

from api.problems import Fault, Refusal
from api.queue_view import place_of, read_standing
from api.service import Service
from shared.errors import IdempotencyRecorded, QuotaExceeded
from shared.ports import Answer, IdempotencyRecord, JobFilter
from shared.quotas import DAY, Limit, Quota, Usage, charge, rest_of_day
from shared.settings import Settings
from shared.vocabulary import Status

USUAL_WAIT = timedelta(seconds=60)  # where nobody can tell when a waiting job is drawn
LONGEST_WAIT = timedelta(hours=1)  # an estimate that reaches further says little
SECOND = timedelta(seconds=1)
LARGEST_INTEGER = 10**15 - 1  # of a structured field (RFC 9651)


def quota_of(settings: Settings) -> Quota | None:
    """Say what a tenant may use; None if there is no limit, so that nothing is counted."""
    quota = settings.quota
    return None if quota.unlimited else quota


def judge(
    jobs: int, tenant: str, service: Service, *, record: IdempotencyRecord | None = None
) -> None:
    """Raise QuotaExceeded if new jobs would not fit now, before anything is done for them.

    The store judges again in the transaction that makes them. Raises IdempotencyRecorded if the
    room was taken by an equal request that was faster.
    """
    quota = quota_of(service.settings)
    if quota is None:
        return
    usage = service.backends.jobs.usage(tenant)
    try:
        charge(quota, usage, jobs, service.backends.workers.now())
    except QuotaExceeded:
        if record:
            first = service.backends.jobs.recall(record.tenant, record.path, record.key_sha256)
            if first:
                raise IdempotencyRecorded(first) from None
        raise


@contextmanager
def refusing_excess(
    jobs: int, tenant: str, service: Service, *, pointer: str | None = None
) -> Iterator[None]:
    """Turn QuotaExceeded into a Refusal that says what is left and when to try again."""
    try:
        yield
    except QuotaExceeded as full:
        raise _refusal(full, jobs, tenant, service, pointer) from None


def tell(answer: Answer, usage: Usage | None, service: Service, now: datetime) -> Answer:
    """Add what is left to the answer to a submission; a recorded answer never has it."""
    quota = quota_of(service.settings)
    if quota is None or usage is None:
        return answer
    return replace(answer, headers={**answer.headers, **limit_fields(quota, usage, now)})


def tell_now(answer: Answer, tenant: str, service: Service) -> Answer:
    """See tell; for answers to submissions of several transactions."""
    if quota_of(service.settings) is None:
        return answer
    usage, now = service.backends.jobs.usage(tenant), service.backends.workers.now()
    return tell(answer, usage, service, now)


def limit_fields(quota: Quota, usage: Usage, now: datetime) -> dict[str, str]:
    """Write the RateLimit fields of draft-ietf-httpapi-ratelimit-headers, an item for each limit.

    Device seconds are rounded up: nothing is left only when nothing is.
    """
    most: Mapping[Limit, float | None] = {
        Limit.QUEUED_JOBS: quota.queued_jobs,
        Limit.JOBS_PER_DAY: quota.jobs_per_day,
        Limit.GPU_SECONDS_PER_DAY: quota.gpu_seconds_per_day,
    }
    used: Mapping[Limit, float] = {
        Limit.QUEUED_JOBS: usage.queued_jobs,
        Limit.JOBS_PER_DAY: usage.jobs_today,
        Limit.GPU_SECONDS_PER_DAY: usage.gpu_seconds_today,
    }
    policies, rests = list[str](), list[str]()
    for limit, whole in most.items():
        if whole is None:
            continue
        daily = limit is not Limit.QUEUED_JOBS
        window = f";w={_seconds(DAY)}" if daily else ""
        left = f";t={_seconds(rest_of_day(now))}" if daily else ""
        policies.append(f'"{limit}";q={_integer(whole)}{window}')
        rests.append(f'"{limit}";r={_integer(max(0, whole - used[limit]))}{left}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(rests)}


def wait_for_places(all_drawn: timedelta | None, *, waiting: int, places: int) -> timedelta:
    """Estimate when so many of the waiting jobs have begun, if all have after `all_drawn`."""
    if all_drawn is None or not waiting:
        return USUAL_WAIT
    return min(max(all_drawn * min(1, places / waiting), SECOND), LONGEST_WAIT)


def _refusal(
    full: QuotaExceeded, jobs: int, tenant: str, service: Service, pointer: str | None
) -> Refusal:
    quota, now = service.settings.quota, service.backends.workers.now()
    usage = service.backends.jobs.usage(tenant)
    headers = limit_fields(quota, usage, now)
    # more than ever fits at once: no wait helps, so none is named
    if quota.most_at_once is None or jobs <= quota.most_at_once:
        wait = full.retry_after or _wait(jobs, quota, usage, tenant, service)
        headers["Retry-After"] = str(_seconds(wait))
    faults = () if pointer is None else (Fault(pointer=pointer, detail=str(full)),)
    return Refusal(
        status=429, code="quota_exceeded", detail=str(full), faults=faults, headers=headers
    )


def _wait(jobs: int, quota: Quota, usage: Usage, tenant: str, service: Service) -> timedelta:
    """Estimate when enough of a tenant's waiting jobs have begun to be drawn."""
    queued = JobFilter(tenant=tenant, status=Status.QUEUED)
    newest = service.backends.jobs.find(queued, limit=1).items
    if not newest or quota.queued_jobs is None:
        return USUAL_WAIT
    standing = read_standing(service.backends, service.settings)
    place = place_of(newest[0], service.backends.jobs.ahead(newest[0]), standing)
    start = place.start if place else None
    return wait_for_places(
        start - standing.now if start else None,
        waiting=usage.queued_jobs,
        places=usage.queued_jobs + jobs - quota.queued_jobs,
    )


def _seconds(time: timedelta) -> int:
    return ceil(time.total_seconds())


def _integer(amount: float) -> int:
    return min(ceil(amount), LARGEST_INTEGER)
