"""How an attempt ends: which error becomes which failure, and the commit."""

import logging
import time
from collections.abc import Callable
from traceback import extract_tb

from shared.errors import (
    ArtifactError,
    BlankImage,
    InvalidReference,
    JobError,
    OutOfMemory,
    ReferenceDamaged,
    StoreUnavailable,
    WeightsChanged,
)
from shared.jobs import Job
from shared.ports import JobChange, JobStore
from shared.vocabulary import ErrorCode, Failure

log = logging.getLogger(__name__)

COMMIT_RETRIES = tuple(0.1 * 2**i for i in range(10))  # seconds between tries; then a lease is over

# The first class that fits names the error. Retryable: another try may end otherwise.
FAILURES: tuple[tuple[type[Exception], ErrorCode, bool], ...] = (
    (ReferenceDamaged, ErrorCode.REFERENCE_DAMAGED, False),
    (InvalidReference, ErrorCode.INVALID_REFERENCE, False),
    (WeightsChanged, ErrorCode.WEIGHTS_CHANGED, False),
    (OutOfMemory, ErrorCode.OUT_OF_MEMORY, False),
    (BlankImage, ErrorCode.BLANK_IMAGE, True),
    (ArtifactError, ErrorCode.ARTIFACT_STORE, True),
)


def failure_of(job: Job, error: Exception) -> Failure:
    """Name what went wrong with a drawing, and log where."""
    code, retryable = _named(error)
    # An unforeseen error may quote its input, a prompt even: only its kind and its place are told.
    told = str(error) if code is not ErrorCode.INTERNAL else type(error).__name__
    frames = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    log.error("drawing failed", extra={**names(job), "code": code, "why": told, "at": frames})
    return Failure(code=code, message=told, retryable=retryable)


def commit(
    job: Job, end: JobChange, *, jobs: JobStore, lease_left: Callable[[], float]
) -> Job | None:
    """Write the outcome; a store that is away is asked again until the lease would end.

    Returns None if the lease went.
    """
    for pause in (*COMMIT_RETRIES, None):
        try:
            ended = jobs.update(job.id, end)
        except JobError as error:
            log.warning("commit refused", extra={**names(job), "reason": str(error)})
            return None
        except StoreUnavailable:
            if pause is None or lease_left() < pause:
                log.warning("commit given up", extra=names(job))
                return None
            time.sleep(pause)
        else:
            log.info("ended", extra={**names(job), "status": ended.status, **_took(ended)})
            return ended
    return None


def names(job: Job) -> dict[str, object]:
    """Name an attempt in a log event."""
    return {"job_id": job.id, "attempt": job.attempt}


def _named(error: Exception) -> tuple[ErrorCode, bool]:
    for kind, code, retryable in FAILURES:
        if isinstance(error, kind):
            return code, retryable
    return ErrorCode.INTERNAL, True


def _took(job: Job) -> dict[str, object]:
    took = job.metrics
    return {
        "gpu_seconds": round(took.gpu_seconds, 3),
        "stages": took.stages,
        "steps": took.steps,
        "steps_per_second": took.steps_per_second,
        "resumed_at": took.resumed_at,
        "peak_bytes": took.peak_bytes,
        "remembered": took.remembered,
        "unread_tokens": took.unread_tokens,
    }
