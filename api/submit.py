"""Accept a job: fix everything that decides its picture, write it down, then wake a worker."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from api.idempotency import Keep
from api.jobs_view import show_job
from api.problems import Refusal, invalid
from api.queue_view import Standing, read_standing
from api.rate_limits import judge, quota_of, refusing_excess, tell
from api.requests import JobRequest, SceneFields
from api.routing import reply
from api.scene_input import SceneRefused, pin, resolve_scene
from api.service import Service
from shared.assets import Asset
from shared.errors import PublishFailed, StoreUnavailable
from shared.jobs import Job, confirm_wake, enqueue
from shared.messages import Wake
from shared.ports import Answer, IdempotencyRecord
from shared.quotas import Usage
from shared.scenes import Scene, recipe_of
from shared.vocabulary import Priority
from shared.workers import WorkerState

POLL_AFTER = {"Retry-After": "1"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A job that somebody wants."""

    tenant: str
    scene: Scene
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_of: str | None = None


def wish_of(request: JobRequest, tenant: str, service: Service) -> Wish:
    """Fix seed, size, weights and references now, so that a retry draws the same picture.

    Raises a Refusal with every fault.
    """
    found = find_assets(request, tenant, service)
    try:
        scene = resolve_scene(
            request,
            references=found,
            weights=service.weights,
            usual_pixels=service.usual_pixels,
            max_pixels=service.settings.max_pixels,
            seed=service.new_seed(),
        )
    except SceneRefused as refused:
        raise invalid(refused.faults) from None
    return Wish(tenant=tenant, scene=scene, priority=request.priority, metadata=request.metadata)


def wish_again(job: Job, service: Service) -> Wish:
    """Want an ended job once more, with the weights that are served now; raises a Refusal."""
    require_ended(job)
    references = []
    for reference in job.scene.references:
        asset = service.backends.assets.get(job.tenant, reference.asset)
        if asset is None:
            raise _deleted(reference.asset)
        references.append(pin(asset))  # it may have been uploaded again since
    return Wish(
        tenant=job.tenant,
        scene=replace(job.scene, weights=service.weights, references=tuple(references)),
        priority=job.priority,
        metadata=job.metadata,
        retry_of=job.id,
    )


def require_ended(job: Job) -> None:
    """Raise a Refusal while a job goes on."""
    if not job.status.final:
        detail = f"{job.id} is {job.status}; only an ended job is retried"
        raise Refusal(status=409, code="job_active", detail=detail)


def submit(wish: Wish, service: Service, *, keep: Keep, traceparent: str) -> Answer:
    """Create the job and its idempotency record in one transaction, then publish; answer 202.

    A publish that fails changes nothing: the sweep sends the message again. Nothing is published
    while waking is held: the sweep does it later. Raises IdempotencyRecorded if an equal request
    was first, and a Refusal if the quota has no room.
    """
    now = service.backends.workers.now()
    job = _job_of(wish, service, now)
    standing = read_standing(service.backends, service.settings)
    answer = accepted(job, service, standing)
    with refusing_excess(1, wish.tenant, service):
        usage = _written(job, service, record=keep(answer, now), now=now)
    service.meters.accepted.inc()
    if worth_waking(standing):
        wake_worker(job, service, traceparent=traceparent)
    else:
        ids = {"job_id": job.id, "traceparent": traceparent}
        log.info("submitted, not woken", extra={**ids, "reason": standing.stopped})
    return tell(answer, usage, service, now)


def accepted(job: Job, service: Service, standing: Standing | None = None) -> Answer:
    """Answer 202 with a job."""
    headers = {"Location": f"/v1/jobs/{job.id}", **POLL_AFTER}
    return reply(show_job(job, service, standing), status=202, headers=headers)


def worth_waking(standing: Standing) -> bool:
    """Whether a message may be sent: it could start a worker for nothing while waking is held.

    One that is idle takes it instead, and nothing is started.
    """
    idle = any(worker.state is WorkerState.IDLE for worker in standing.workers)
    return standing.stopped is None or idle


def wake_worker(job: Job, service: Service, *, traceparent: str) -> None:
    """Publish a wake-up; once it is confirmed the sweep need not hurry. Raises nothing."""
    ids = {"job_id": job.id, "traceparent": traceparent}
    try:
        service.backends.publisher.publish(Wake(job=job.id, traceparent=traceparent))
    except PublishFailed:
        log.warning("publish failed", extra=ids)
        return
    try:
        service.backends.jobs.update(job.id, confirm_wake)
    except StoreUnavailable:
        log.warning("wake not confirmed", extra=ids)
    log.info("submitted", extra=ids)


def find_assets(fields: SceneFields, tenant: str, service: Service) -> dict[str, Asset]:
    """Read the assets that a scene names; those that there are not are left out."""
    found = {asset: service.backends.assets.get(tenant, asset) for asset in fields.references}
    return {name: asset for name, asset in found.items() if asset is not None}


def keep_assets(names: list[str], tenant: str, service: Service, now: datetime) -> None:
    """Let the uploads that a new job needs live as long as one that is uploaded now.

    Raises a Refusal if one is gone by now, bytes and all.
    """
    until = next_hour(now + service.settings.retention)  # a popular one is not written every time
    for name in names:
        # it holds for one that is deleted at this moment too: its bytes stay for this job
        if not service.backends.assets.keep(tenant, name, until=until):
            raise _deleted(name)


def next_hour(instant: datetime) -> datetime:
    """Round up to a whole hour."""
    return instant + (
        -timedelta(minutes=instant.minute, seconds=instant.second, microseconds=instant.microsecond)
        % timedelta(hours=1)
    )


def _deleted(asset: str) -> Refusal:
    detail = f"{asset} was deleted; upload it again"
    return Refusal(status=409, code="reference_deleted", detail=detail)


def _written(
    job: Job, service: Service, *, record: IdempotencyRecord | None, now: datetime
) -> Usage | None:
    uploads = [reference.asset for reference in job.scene.references]
    if uploads:  # those of a job that does not fit are to live no longer than before
        judge(1, job.tenant, service, record=record)
        keep_assets(uploads, job.tenant, service, now)
    return service.backends.jobs.create([job], record=record, quota=quota_of(service.settings))


def _job_of(wish: Wish, service: Service, now: datetime) -> Job:
    return enqueue(
        id=service.new_id("job"),
        tenant=wish.tenant,
        scene=wish.scene,
        recipe=recipe_of(wish.scene),
        now=now,
        retention=service.settings.retention,
        priority=wish.priority,
        metadata=wish.metadata,
        retry_of=wish.retry_of,
    )
