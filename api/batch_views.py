"""Read batches and their scenes, and show batches as they stand."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain

from api.batch_responses import BatchBody, BatchProgressBody
from api.expand import ALL_PAGES, expand
from api.present import present_cost
from api.problems import not_found
from api.queue_view import place_of, read_standing
from api.responses import ErrorBody
from api.service import Service
from shared.batches import (
    Batch,
    BatchScene,
    BatchStatus,
    Take,
    expansion_done,
    is_stale,
    standing,
)
from shared.errors import BatchNotFound, SceneNotFound
from shared.jobs import Job
from shared.ports import BatchStore, JobFilter, JobStore
from shared.settings import Settings
from shared.vocabulary import Status

PAGE = 200

TakesByKey = Mapping[str, Sequence[Take]]


def find_batch(id: str, tenant: str, service: Service) -> Batch:
    """Read a batch; raises a Refusal, also for another tenant's."""
    missing = not_found(f"there is no batch {id[:64]!r}")
    try:
        batch = service.backends.batches.get(id)
    except BatchNotFound:
        raise missing from None
    if batch.tenant != tenant:
        raise missing
    return batch


def find_scene(key: str, batch: Batch, service: Service) -> BatchScene:
    """Read a scene, of a batch that is still being expanded too; raises SceneNotFound."""
    try:
        return service.backends.batches.scene(batch.id, key)
    except SceneNotFound:
        if expansion_done(batch):
            raise
    expand(service.backends, service.settings, batch, pages=ALL_PAGES)
    return service.backends.batches.scene(batch.id, key)


def accepted_body(batch: Batch, settings: Settings) -> BatchBody:
    """Show a batch that was accepted just now."""
    return _body(batch, {}, settings, stale=0, gpu_seconds=0.0)


def show_batch(batch: Batch, service: Service) -> BatchBody:
    """Show a batch with its counts, its progress and its costs."""
    jobs = service.backends.jobs
    counts = jobs.batch_counts(batch.id)
    body = _body(
        batch,
        counts,
        service.settings,
        stale=sum(1 for _ in stale_keys(batch, service)),
        gpu_seconds=jobs.batch_gpu_seconds(batch.id),
    )
    if body.status is not BatchStatus.RUNNING:
        return body
    return body.model_copy(update={"eta": _eta(batch, service)})


def stale_keys(batch: Batch, service: Service) -> Iterator[str]:
    """List the scenes that now want another picture than their accepted one."""
    takes = takes_by_key(service.backends.jobs, batch.id)
    if not any(take.status is Status.SUCCEEDED for them in takes.values() for take in them):
        return  # nothing is accepted, so nothing differs from it
    for scene in all_scenes(service.backends.batches, batch.id):
        if is_stale(scene, takes.get(scene.key, ()), weights=service.weights):
            yield scene.key


def all_scenes(batches: BatchStore, batch: str) -> Iterator[BatchScene]:
    """Read all scenes of a batch in order, page by page."""
    return chain.from_iterable(pages_of_scenes(batches, batch))


def pages_of_scenes(batches: BatchStore, batch: str) -> Iterator[list[BatchScene]]:
    """Read all scenes of a batch in order, a page at a time."""
    after = -1
    while page := batches.scenes(batch, after=after, limit=PAGE):
        yield page
        after = page[-1].position


def takes_by_key(
    jobs: JobStore, batch: str, keys: Sequence[str] | None = None
) -> dict[str, list[Take]]:
    """Read the takes of a batch's scenes, or of those with these keys."""
    found = defaultdict[str, list[Take]](list)
    for take in jobs.takes(batch, keys):
        found[take.key].append(take)
    return found


def present_failure(job: Job) -> ErrorBody | None:
    """Show why a job, or its last attempt, failed."""
    told = job.error
    if told is None:
        return None
    return ErrorBody(code=told.code, message=told.message, retryable=told.retryable)


def _body(
    batch: Batch,
    counts: Mapping[Status, int],
    settings: Settings,
    *,
    stale: int,
    gpu_seconds: float,
) -> BatchBody:
    told = {status: counts.get(status, 0) for status in Status}
    finished = sum(count for status, count in told.items() if status.final)
    return BatchBody(
        id=batch.id,
        title=batch.title,
        status=standing(batch, counts),
        created_at=batch.created_at,
        scene_count=batch.scene_count,
        counts=told,
        stale=stale,
        progress=BatchProgressBody(
            finished=finished, fraction=round(finished / batch.scene_count, 4)
        ),
        eta=None,
        gpu_seconds=gpu_seconds,
        cost=present_cost(gpu_seconds, settings),
        defaults=dict(batch.defaults),
        metadata=dict(batch.metadata),
    )


def _eta(batch: Batch, service: Service) -> datetime | None:
    """Tell when the last of a batch's jobs that wait, or else are drawn, will be done."""
    jobs = service.backends.jobs
    for status in (Status.QUEUED, Status.RUNNING):
        wanted = JobFilter(tenant=batch.tenant, batch=batch.id, status=status)
        for job in jobs.find(wanted, limit=1).items:
            place = place_of(
                job, jobs.ahead(job), read_standing(service.backends, service.settings)
            )
            return place.finish if place else None
    return None
