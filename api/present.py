"""Show jobs, assets and workers as the answers that responses.py models. Pure."""

import hashlib

from api.queue_view import Place
from api.responses import (
    AssetBody,
    BatchPlaceBody,
    ControlBody,
    CostBody,
    ErrorBody,
    EtaBody,
    ImageBody,
    InputBody,
    JobBody,
    MetricsBody,
    MomentBody,
    ProgressBody,
    QueueBody,
    WeightsBody,
    WorkerBody,
)
from shared.assets import Asset
from shared.jobs import Job
from shared.scenes import Scene
from shared.settings import Settings
from shared.vocabulary import Metrics
from shared.workers import QueueControl, WorkerRecord


def present_job(job: Job, place: Place | None, settings: Settings) -> JobBody:
    """Show a job; `place` is where in the queue it stands."""
    return JobBody(
        id=job.id,
        object="job",
        status=job.status,
        version=job.version,
        created_at=job.created_at,
        started_at=job.claimed_at,
        finished_at=job.finished_at,
        expires_at=job.expire_at,
        input=present_scene(job.scene),
        attempt=job.attempt,
        queue=_place(place),
        progress=_progress(job),
        images=present_images(job),
        error=_error(job),
        metrics=_metrics(job.metrics),
        cost=present_cost(job.metrics.gpu_seconds, settings),
        weights=WeightsBody(label=job.scene.weights.label, sha256=job.scene.weights.sha256),
        batch=_batch(job),
        timeline=[MomentBody(at=m.at, event=m.event, attempt=m.attempt) for m in job.timeline],
        metadata=dict(job.metadata),
        priority=job.priority,
        cancel_requested_at=job.cancel_requested_at,
        retry_of=job.retry_of,
    )


def etag_of(body: JobBody) -> str:
    """Digest a job's representation without its ETA, which moves while nothing happens."""
    steady = body.model_dump_json(exclude={"queue": {"eta"}})
    return hashlib.sha256(steady.encode()).hexdigest()[:32]


def present_scene(scene: Scene) -> InputBody:
    """Show what is drawn."""
    return InputBody(
        prompt=scene.prompt,
        references=[reference.asset for reference in scene.references],
        width=scene.width,
        height=scene.height,
        steps=scene.steps,
        guidance=scene.guidance,
        seed=scene.seed,
        count=scene.count,
        format=scene.format,
    )


def present_images(job: Job) -> list[ImageBody]:
    """Show a job's results."""
    return [
        ImageBody(
            index=index,
            url=f"/v1/jobs/{job.id}/images/{index}",
            content_type=job.scene.format.content_type,
            width=image.width,
            height=image.height,
            bytes=image.bytes,
            sha256=image.sha256,
            seed=image.seed,
        )
        for index, image in enumerate(job.images)
    ]


def present_cost(gpu_seconds: float, settings: Settings) -> CostBody:
    """Price device seconds, if there is a price."""
    price = settings.price_per_gpu_second
    amount = None if price is None else round(gpu_seconds * price, 6)
    return CostBody(currency="USD", amount=amount)


def present_asset(asset: Asset) -> AssetBody:
    """Show an asset."""
    return AssetBody(
        id=asset.id,
        object="asset",
        width=asset.width,
        height=asset.height,
        bytes=asset.bytes,
        content_type=asset.content_type,
        sha256=asset.sha256,
        created_at=asset.created_at,
        expires_at=asset.expire_at,
    )


def present_worker(record: WorkerRecord) -> WorkerBody:
    """Show a worker."""
    weights = record.weights
    return WorkerBody(
        id=record.id,
        object="worker",
        state=record.state,
        stage=record.stage or None,
        fraction=record.fraction,
        error=record.error or None,
        job=record.job,
        weights=WeightsBody(label=weights.label, sha256=weights.sha256) if weights else None,
        device=record.device,
        memory_bytes=record.memory_bytes,
        seconds_per_megapixel_step=record.seconds_per_megapixel_step,
        started_at=record.started_at,
        last_seen=record.at,
    )


def present_control(control: QueueControl) -> ControlBody:
    """Show the operator's switch."""
    return ControlBody(
        object="queue_control",
        paused=control.paused,
        reason=control.reason or None,
        changed_at=control.changed_at,
    )


def _place(place: Place | None) -> QueueBody | None:
    if place is None:
        return None
    eta = EtaBody(start=place.start, finish=place.finish) if place.finish else None
    return QueueBody(position=place.position, reason=place.reason, eta=eta)


def _progress(job: Job) -> ProgressBody | None:
    if job.progress is None:
        return None
    told = job.progress
    fraction = round(told.fraction, 4)
    return ProgressBody(phase=told.phase, step=told.step, steps=told.steps, fraction=fraction)


def _metrics(took: Metrics) -> MetricsBody:
    return MetricsBody(
        gpu_seconds=took.gpu_seconds,
        stages=None if took.stages is None else dict(took.stages),
        steps=took.steps,
        steps_per_second=took.steps_per_second,
        resumed_at=took.resumed_at,
        peak_bytes=took.peak_bytes,
        remembered=took.remembered,
        unread_tokens=took.unread_tokens,
    )


def _error(job: Job) -> ErrorBody | None:
    if job.error is None:
        return None
    return ErrorBody(code=job.error.code, message=job.error.message, retryable=job.error.retryable)


def _batch(job: Job) -> BatchPlaceBody | None:
    if job.batch is None or job.scene_key is None or job.take is None:
        return None
    return BatchPlaceBody(id=job.batch, scene=job.scene_key, take=job.take)
