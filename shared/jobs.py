"""The life of a job, as pure functions: each takes a Job and returns a Job, or raises a fact.

A store applies them atomically and supplies `now` from its own clock. The numbers T1 to T11 are
those of docs/protocol.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from shared.checkpoints import KEPT_AFTER, announced, why_refused
from shared.errors import CancelWished, JobActive, JobFinal, JobNotDue, LeaseHeld, LeaseLost
from shared.scenes import Scene
from shared.vocabulary import (
    Checkpoint,
    DrawnImage,
    ErrorCode,
    Event,
    Failure,
    Latents,
    Lease,
    Metrics,
    Moment,
    Priority,
    Progress,
    Status,
)

TIMELINE_LENGTH = 20
FIRST_WAKE = timedelta(seconds=30)  # the publish may have failed
CONFIRMED_WAKE = timedelta(seconds=300)  # it was confirmed, but a message can still be lost
WAKE_BACKOFF = tuple(timedelta(seconds=s) for s in (60, 300, 600, 1800))
RETRY_BACKOFF = tuple(timedelta(seconds=s) for s in (10, 30, 90))
RETRY_JITTER = 0.2
TOMBSTONE_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long a lease lasts and how much a job may cost before it fails."""

    lease: timedelta = timedelta(seconds=75)
    steal_grace: timedelta = timedelta(seconds=5)
    failures: int = 3
    interruptions: int = 10
    max_runtime: timedelta = timedelta(minutes=30)
    max_queued: timedelta = timedelta(hours=24)
    cleanup_after: timedelta = timedelta(minutes=5)  # a zombie's last upload is over by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request to draw one scene. `attempt` is the fencing token: it rises at each claim."""

    id: str
    tenant: str
    scene: Scene
    recipe: str
    created_at: datetime
    updated_at: datetime
    expire_at: datetime
    not_before: datetime
    wake_at: datetime
    schema: int = 1
    version: int = 1
    status: Status = Status.QUEUED
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    lease: Lease | None = None
    priority: Priority = Priority.NORMAL
    wakes: int = 0
    cancel_requested_at: datetime | None = None
    claimed_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    checkpoint: Checkpoint | None = None
    latents: tuple[Latents, ...] = ()  # all that may be stored, so that clean-up can name them
    images: tuple[DrawnImage, ...] = ()
    images_attempt: int | None = None
    error: Failure | None = None
    timeline: tuple[Moment, ...] = ()
    metrics: Metrics = field(default_factory=Metrics)
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_of: str | None = None
    batch: str | None = None
    scene_key: str | None = None
    take: int | None = None
    superseded: bool = False  # a newer take of its scene exists
    request: str | None = None  # the request that asked for this take, so that repeating it is safe
    cleanup_due: datetime | None = None
    deleted_at: datetime | None = None


def enqueue(
    *,
    id: str,
    tenant: str,
    scene: Scene,
    recipe: str,
    now: datetime,
    retention: timedelta,
    **others: Any,
) -> Job:
    """T1: make a new job, due at once, that the sweep wakes if its message gets lost."""
    job = Job(
        id=id, tenant=tenant, scene=scene, recipe=recipe, created_at=now, updated_at=now,
        expire_at=now + retention, not_before=now, wake_at=now + FIRST_WAKE, **others,
    )  # fmt: skip
    return _told(job, now, Event.QUEUED)


def confirm_wake(job: Job, now: datetime) -> Job:
    """T1, after the publish was confirmed: let the sweep be patient."""
    if job.status is not Status.QUEUED or job.attempt:
        return job
    return replace(job, wake_at=now + CONFIRMED_WAKE)


def wake(job: Job, now: datetime) -> Job:
    """T2: note that the sweep sends another message. Raises JobNotDue when none is needed."""
    if job.status is not Status.QUEUED or job.wake_at > now:
        raise JobNotDue(f"{job.id}: no wake-up is due")
    pause = WAKE_BACKOFF[min(job.wakes, len(WAKE_BACKOFF) - 1)]
    return replace(job, wakes=job.wakes + 1, wake_at=now + pause)


def wake_thief(job: Job, now: datetime, *, terms: Terms) -> Job:
    """T2 for a job whose worker is silent: note that a message asks another worker to steal it.

    Raises JobNotDue while the worker may still live, or a message was sent a short while ago.
    """
    silent = job.status is Status.RUNNING and lease_is_over(job, now, terms=terms)
    if not silent or job.wake_at > now:
        raise JobNotDue(f"{job.id}: no wake-up is due")
    pause = WAKE_BACKOFF[min(job.wakes, len(WAKE_BACKOFF) - 1)]
    return replace(job, wakes=job.wakes + 1, wake_at=now + pause)


def claim(job: Job, now: datetime, *, holder: str, terms: Terms) -> Job:
    """T3: start an attempt; a dead worker's lease is stolen, or fails the job when that is its end.

    Raises JobFinal, JobNotDue, CancelWished or LeaseHeld when the job cannot be had.
    """
    if job.status.final:
        raise JobFinal(f"{job.id} is {job.status}")
    if job.cancel_requested_at:
        raise CancelWished(f"{job.id} is about to be canceled")
    if job.status is Status.QUEUED:
        if job.not_before > now:
            raise JobNotDue(f"{job.id} is not due before {job.not_before.isoformat()}")
        return _started(job, now, Event.CLAIMED, holder=holder, terms=terms)
    if not lease_is_over(job, now, terms=terms):
        raise LeaseHeld(f"{job.id} is being drawn by another worker")
    lost = replace(job, failures=job.failures + 1, metrics=_with_lost_time(job))
    if lost.failures >= terms.failures:
        return _failed(lost, now, _worker_lost(lost), terms=terms)
    return _started(lost, now, Event.STOLEN, holder=holder, terms=terms)


def renew(
    job: Job,
    now: datetime,
    *,
    lease: Lease,
    progress: Progress | None,
    terms: Terms,
    checkpoint: Checkpoint | None = None,
) -> Job:
    """T4: go on holding the lease, and tell how far the drawing is and was saved.

    A checkpoint that is refused leaves the one that there is. Raises LeaseLost.
    """
    held = _held(job, lease)
    renewed = replace(held, expires_at=now + terms.lease)
    told = replace(job, lease=renewed, progress=progress or job.progress)
    return _saved(told, checkpoint)


def announce(job: Job, now: datetime, *, lease: Lease, step: int) -> Job:
    """T4, before latents are stored: note them, so that clean-up finds them whatever comes next.

    Raises LeaseLost, CancelWished or CheckpointsSpent: then store nothing.
    """
    _held(job, lease)
    if job.cancel_requested_at:
        raise CancelWished(f"{job.id} is about to be canceled")
    known = announced(job.latents, Latents(attempt=lease.token, step=step))
    return job if known is job.latents else replace(job, latents=known)


def forget_checkpoint(job: Job, now: datetime, *, lease: Lease) -> Job:
    """T4, when a checkpoint cannot be used: the drawing begins again. Raises LeaseLost."""
    _held(job, lease)
    return replace(job, checkpoint=None) if job.checkpoint else job


def succeed(
    job: Job,
    now: datetime,
    *,
    lease: Lease,
    images: tuple[DrawnImage, ...],
    metrics: Metrics,
    terms: Terms,
) -> Job:
    """T5: commit the images. Saying it twice is fine; raises LeaseLost if the lease is not mine."""
    if job.status is Status.SUCCEEDED and job.images_attempt == lease.token:
        return job
    _held(job, lease)
    done = replace(
        job, images=images, images_attempt=lease.token, error=None,
        metrics=_added(job.metrics, metrics),
    )  # fmt: skip
    return _ended(done, now, Status.SUCCEEDED, Event.SUCCEEDED, terms=terms)


def fail(
    job: Job,
    now: datetime,
    *,
    lease: Lease,
    error: Failure,
    metrics: Metrics,
    jitter: float,
    terms: Terms,
) -> Job:
    """T6, T7: back to the queue if the error may pass and the budget lasts, else failed for good.

    `jitter` is -1 to 1: it spreads the retries of jobs that failed together. Raises LeaseLost.
    """
    _held(job, lease)
    tried = replace(
        job, failures=job.failures + 1, metrics=_added(job.metrics, metrics),
        checkpoint=job.checkpoint if error.code in KEPT_AFTER else None,
    )  # fmt: skip
    if not error.retryable or tried.failures >= terms.failures:
        return _failed(tried, now, error, terms=terms)
    pause = RETRY_BACKOFF[min(job.failures, len(RETRY_BACKOFF) - 1)] * (1 + RETRY_JITTER * jitter)
    waiting = replace(tried, error=error)
    return _requeued(waiting, now, Event.RETRIED, due=now + pause, terms=terms)


def release(
    job: Job,
    now: datetime,
    *,
    lease: Lease,
    metrics: Metrics,
    terms: Terms,
    checkpoint: Checkpoint | None = None,
) -> Job:
    """T8: give the job back because this worker must stop; that is not the job's fault."""
    _held(job, lease)
    used = replace(job, interruptions=job.interruptions + 1, metrics=_added(job.metrics, metrics))
    freed = _saved(used, checkpoint)
    if freed.interruptions > terms.interruptions:
        often = f"interrupted {freed.interruptions} times; retry it when the workers are steady"
        error = Failure(code=ErrorCode.INTERRUPTED_TOO_OFTEN, message=often)
        return _failed(freed, now, error, terms=terms)
    return _requeued(freed, now, Event.RELEASED, due=now, terms=terms)


def cancel(job: Job, now: datetime, *, terms: Terms) -> Job:
    """T9: cancel a waiting job, or wish it of a running one; an ended job stays as it is."""
    if job.status.final or job.cancel_requested_at:
        return job
    wished = replace(job, cancel_requested_at=now)
    if job.status is Status.RUNNING:
        return wished
    return _ended(wished, now, Status.CANCELED, Event.CANCELED, terms=terms)


def grant_cancel(job: Job, now: datetime, *, lease: Lease, metrics: Metrics, terms: Terms) -> Job:
    """T10: end a running job as its owner wished. Raises LeaseLost."""
    _held(job, lease)
    stopped = replace(job, metrics=_added(job.metrics, metrics))
    return _ended(stopped, now, Status.CANCELED, Event.CANCELED, terms=terms)


def expire(job: Job, now: datetime, *, terms: Terms) -> Job:
    """T7, T10 by the sweep: end what nobody else will. Raises JobNotDue if it may go on."""
    if job.status is Status.QUEUED and now - job.created_at > terms.max_queued:
        waited = Failure(code=ErrorCode.EXPIRED, message=f"queued longer than {terms.max_queued}")
        return _ended(replace(job, error=waited), now, Status.FAILED, Event.EXPIRED, terms=terms)
    if job.status is Status.RUNNING and job.claimed_at:
        if job.cancel_requested_at and lease_is_over(job, now, terms=terms):
            gone = replace(job, metrics=_with_lost_time(job))
            return _ended(gone, now, Status.CANCELED, Event.CANCELED, terms=terms)
        if now - job.claimed_at > terms.max_runtime:
            slow = Failure(code=ErrorCode.TIMEOUT, message=f"ran longer than {terms.max_runtime}")
            return _failed(replace(job, metrics=_with_lost_time(job)), now, slow, terms=terms)
        if lease_is_over(job, now, terms=terms) and job.failures + 1 >= terms.failures:
            lost = replace(job, failures=job.failures + 1, metrics=_with_lost_time(job))
            return _failed(lost, now, _worker_lost(lost), terms=terms)
    raise JobNotDue(f"{job.id}: nothing has run out")


def supersede(job: Job, now: datetime) -> Job:
    """Note that a newer take of this scene exists."""
    return replace(job, superseded=True)


def delete(job: Job, now: datetime) -> Job:
    """T11: leave a tombstone; its artifacts and fields go next. Raises JobActive."""
    if not job.status.final:
        raise JobActive(f"{job.id} is {job.status}: cancel it first")
    if job.deleted_at:
        return job
    return replace(job, deleted_at=now, cleanup_due=now, expire_at=now + TOMBSTONE_FOR)


def finish_cleanup(job: Job, now: datetime) -> Job:
    """Note that the artifacts nobody reads are gone; a deleted job loses its contents, too."""
    if not job.deleted_at:
        return replace(job, cleanup_due=None)
    emptied = replace(job.scene, prompt="", references=())
    return replace(
        job, cleanup_due=None, scene=emptied, images=(), latents=(), metadata={}, error=None
    )


def keep_until(job: Job, now: datetime, *, expire_at: datetime) -> Job:
    """Put off the end of the retention time."""
    return replace(job, expire_at=max(job.expire_at, expire_at))


def lease_is_over(job: Job, now: datetime, *, terms: Terms) -> bool:
    """Whether the holder has been silent for long enough that another worker may take over."""
    return job.lease is not None and job.lease.expires_at + terms.steal_grace < now


def stamp(before: Job, after: Job, now: datetime) -> Job:
    """Count the version up, as every store does with every change that it writes."""
    return replace(after, version=before.version + 1, updated_at=now)


def _held(job: Job, lease: Lease) -> Lease:
    mine = job.lease is not None and (job.lease.holder, job.lease.token) == (
        lease.holder,
        lease.token,
    )
    if job.status is not Status.RUNNING or not mine:
        raise LeaseLost(f"{job.id}: attempt {lease.token} no longer has the lease")
    return lease


def _saved(job: Job, new: Checkpoint | None) -> Job:
    """Take a checkpoint of this attempt, if it was announced and nothing speaks against it."""
    if new is None or Latents(attempt=job.attempt, step=new.step) not in job.latents:
        return job
    refused = why_refused(
        new,
        present=job.checkpoint,
        recipe=job.recipe,
        attempt=job.attempt,
        steps=job.scene.all_steps,
    )
    return job if refused or new.attempt != job.attempt else replace(job, checkpoint=new)


def _started(job: Job, now: datetime, event: Event, *, holder: str, terms: Terms) -> Job:
    attempt = job.attempt + 1
    lease = Lease(holder=holder, token=attempt, expires_at=now + terms.lease)
    running = replace(
        job, status=Status.RUNNING, attempt=attempt, lease=lease, claimed_at=now, progress=None,
        wake_at=now,  # should this worker fall silent, the sweep need not wait to say so
    )  # fmt: skip
    return _told(running, now, event)


def _requeued(job: Job, now: datetime, event: Event, *, due: datetime, terms: Terms) -> Job:
    if job.cancel_requested_at:  # nobody claims it any more, so it ends here
        return _ended(replace(job, error=None), now, Status.CANCELED, Event.CANCELED, terms=terms)
    waiting = replace(
        job, status=Status.QUEUED, lease=None, progress=None, not_before=due, wake_at=due
    )
    return _told(waiting, now, event)


def _failed(job: Job, now: datetime, error: Failure, *, terms: Terms) -> Job:
    return _ended(replace(job, error=error), now, Status.FAILED, Event.FAILED, terms=terms)


def _ended(job: Job, now: datetime, status: Status, event: Event, *, terms: Terms) -> Job:
    leftovers = job.attempt - (1 if status is Status.SUCCEEDED else 0)
    ended = replace(
        job, status=status, lease=None, finished_at=now, checkpoint=None,
        cleanup_due=now + terms.cleanup_after if leftovers or job.latents else None,
    )  # fmt: skip
    return _told(ended, now, event)


def _told(job: Job, now: datetime, event: Event) -> Job:
    moment = Moment(at=now, event=event, attempt=job.attempt)
    return replace(job, timeline=(*job.timeline, moment)[-TIMELINE_LENGTH:])


def _added(before: Metrics, attempt: Metrics) -> Metrics:
    return replace(attempt, gpu_seconds=before.gpu_seconds + attempt.gpu_seconds)


def _with_lost_time(job: Job) -> Metrics:
    """Charge what a vanished attempt may have used: from its claim to the end of its lease."""
    if not job.lease or not job.claimed_at:
        return job.metrics
    used = (job.lease.expires_at - job.claimed_at).total_seconds()
    return replace(job.metrics, gpu_seconds=job.metrics.gpu_seconds + used)


def _worker_lost(job: Job) -> Failure:
    message = f"the worker vanished while drawing it, {job.failures} times over"
    return Failure(code=ErrorCode.WORKER_LOST, message=message)
