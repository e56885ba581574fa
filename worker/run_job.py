"""Draw one claimed job and commit how it ended, whatever happens on the way."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from traceback import extract_tb
from typing import TYPE_CHECKING, Protocol, TypeVar

from shared.errors import (
    ArtifactDamaged,
    ArtifactError,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    BlankImage,
    InvalidReference,
    JobError,
    LeaseLost,
    OutOfMemory,
    ReferenceDamaged,
    StoreUnavailable,
    WeightsChanged,
)
from shared.jobs import Job, Terms, fail, grant_cancel, release, succeed
from shared.ports import ArtifactStore, JobChange, JobStore
from shared.scenes import Reference, Scene, Weights
from shared.vocabulary import DrawnImage, ErrorCode, Failure, Metrics, Phase
from worker.heartbeat import CancelHeard, Heartbeat, Pace, WorkerStopping
from worker.images import ImageRecipe, decode_reference, encode_image

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
Result = TypeVar("Result")

COMMIT_RETRIES = tuple(0.1 * 2**i for i in range(10))  # seconds between tries; then a lease is over
UPLOAD_RETRIES = (0.2, 1.0, 3.0)

# The first class that fits names the error. Retryable: another try may end otherwise.
FAILURES: tuple[tuple[type[Exception], ErrorCode, bool], ...] = (
    (ReferenceDamaged, ErrorCode.REFERENCE_DAMAGED, False),
    (InvalidReference, ErrorCode.INVALID_REFERENCE, False),
    (WeightsChanged, ErrorCode.WEIGHTS_CHANGED, False),
    (OutOfMemory, ErrorCode.OUT_OF_MEMORY, False),
    (BlankImage, ErrorCode.BLANK_IMAGE, True),
    (ArtifactError, ErrorCode.ARTIFACT_STORE, True),
)


class Pipeline(Protocol):
    """What draws."""

    weights: Weights

    def generate(
        self,
        scene: Scene,
        references: "Sequence[Image]",
        *,
        on_progress: Callable[[Phase, int, int], None],
    ) -> "list[Image]":
        """Draw a scene's images; what on_progress raises comes through, and stops it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What a worker draws with, and under which terms."""

    holder: str
    jobs: JobStore
    artifacts: ArtifactStore
    pipeline: Pipeline
    terms: Terms
    pace: Pace
    stopping: threading.Event
    hung: Callable[[str], None]
    illo_version: str


def run_job(job: Job, at: Workplace) -> Job | None:
    """Draw a job that this worker has claimed; return it as committed, or None if the lease went.

    Never raises for what went wrong with the drawing: that is committed as the job's outcome.
    """
    beat = Heartbeat(
        job, jobs=at.jobs, terms=at.terms, pace=at.pace, stopping=at.stopping, hung=at.hung
    )
    with beat:
        try:
            images = _draw(job, at, beat)
            end: JobChange = partial(
                succeed, lease=beat.lease, images=images, metrics=_used(beat), terms=at.terms
            )
        except LeaseLost as error:
            log.warning("lease lost", extra={**_names(job), "reason": str(error)})
            return None
        except CancelHeard:
            end = partial(grant_cancel, lease=beat.lease, metrics=_used(beat), terms=at.terms)
        except WorkerStopping:
            end = partial(release, lease=beat.lease, metrics=_used(beat), terms=at.terms)
        except Exception as error:  # the one place: a drawing must not take the worker with it
            end = _failing(job, error, beat, at)
        return _commit(job, end, at, beat)


def artifact_name(job: Job, index: int) -> str:
    """Name an image of a job's present attempt; no other attempt ever writes there."""
    return f"jobs/{job.id}/a{job.attempt}/{index}.{job.scene.format}"


def _draw(job: Job, at: Workplace, beat: Heartbeat) -> tuple[DrawnImage, ...]:
    beat.advance(Phase.LOADING, 0, job.scene.steps * job.scene.count)
    if job.scene.weights != at.pipeline.weights:
        raise WeightsChanged(
            f"it was submitted for {job.scene.weights.label}, this worker draws with "
            f"{at.pipeline.weights.label}: submit it again, or reprocess what is stale"
        )
    references = [_reference(reference, at.artifacts) for reference in job.scene.references]
    images = at.pipeline.generate(job.scene, references, on_progress=beat.advance)
    steps = job.scene.steps * job.scene.count
    beat.advance(Phase.UPLOADING, steps, steps)
    return tuple(_upload(job, index, image, at, beat) for index, image in enumerate(images))


def _reference(reference: Reference, artifacts: ArtifactStore) -> "Image":
    try:
        content = _patiently(lambda: artifacts.get(reference.artifact, reference.generation))
    except ArtifactNotFound:
        raise ReferenceDamaged(f"{reference.asset} was deleted; upload it again") from None
    except ArtifactDamaged:
        damaged = f"{reference.asset}: its stored bytes are damaged; upload it again"
        raise ReferenceDamaged(damaged) from None
    return decode_reference(content)


def _upload(job: Job, index: int, image: "Image", at: Workplace, beat: Heartbeat) -> DrawnImage:
    scene, seed = job.scene, job.scene.seeds[index]
    recipe = ImageRecipe(scene=scene, seed=seed, recipe=job.recipe, illo_version=at.illo_version)
    content = encode_image(image, format=scene.format, recipe=recipe)
    steps = scene.steps * scene.count
    beat.advance(Phase.UPLOADING, steps, steps)
    stored = _patiently(
        lambda: at.artifacts.put(
            artifact_name(job, index), content, content_type=scene.format.content_type
        )
    )
    return DrawnImage(
        artifact=stored.name,
        generation=stored.generation,
        sha256=stored.sha256,
        bytes=stored.bytes,
        width=image.width,
        height=image.height,
        seed=seed,
    )


def _failing(job: Job, error: Exception, beat: Heartbeat, at: Workplace) -> JobChange:
    code, retryable = _named(error)
    # An unforeseen error may quote its input, a prompt even: only its kind and its place are told.
    told = str(error) if code is not ErrorCode.INTERNAL else type(error).__name__
    frames = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    log.error("drawing failed", extra={**_names(job), "code": code, "why": told, "at": frames})
    return partial(
        fail,
        lease=beat.lease,
        error=Failure(code=code, message=told, retryable=retryable),
        metrics=_used(beat),
        jitter=random.uniform(-1, 1),  # noqa: S311 - spreads retries, guards nothing
        terms=at.terms,
    )


def _named(error: Exception) -> tuple[ErrorCode, bool]:
    for kind, code, retryable in FAILURES:
        if isinstance(error, kind):
            return code, retryable
    return ErrorCode.INTERNAL, True


def _commit(job: Job, end: JobChange, at: Workplace, beat: Heartbeat) -> Job | None:
    """Write the outcome; a store that is away is asked again until the lease would end."""
    for pause in (*COMMIT_RETRIES, None):
        try:
            ended = at.jobs.update(job.id, end)
        except JobError as error:
            log.warning("commit refused", extra={**_names(job), "reason": str(error)})
            return None
        except StoreUnavailable:
            if pause is None or beat.lease_left < pause:
                log.warning("commit given up", extra=_names(job))
                return None
            time.sleep(pause)
        else:
            log.info("ended", extra={**_names(job), "status": ended.status, **_took(ended)})
            return ended
    return None


def _patiently(ask: Callable[[], Result]) -> Result:
    for pause in UPLOAD_RETRIES:
        try:
            return ask()
        except ArtifactStoreUnavailable:
            time.sleep(pause)
    return ask()


def _used(beat: Heartbeat) -> Metrics:
    return Metrics(gpu_seconds=beat.seconds, stages=beat.stages())


def _took(job: Job) -> dict[str, object]:
    return {"gpu_seconds": round(job.metrics.gpu_seconds, 3), "stages": job.metrics.stages}


def _names(job: Job) -> dict[str, object]:
    return {"job_id": job.id, "attempt": job.attempt}
