"""Let a fault of one thing be its own, so that a sweep goes on with the next."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import (
    ArtifactError,
    ArtifactStoreUnavailable,
    JobError,
    StoreError,
    StoreUnavailable,
)
from shared.ports import WorkerStore

log = logging.getLogger(__name__)


@contextmanager
def alone(event: str, workers: WorkerStore, **ids: str) -> Iterator[None]:
    """Log what the block raises because of one thing, and go on behind it.

    A store that is away altogether comes through: nothing could be done to the next one either.
    """
    try:
        yield
    except ArtifactStoreUnavailable:
        raise
    except (ArtifactError, JobError, StoreError) as fault:
        log.warning(event, extra={**ids, "error": type(fault).__name__, "detail": str(fault)})
        if isinstance(fault, StoreUnavailable):
            workers.control()  # raises if it is not this one thing that cannot be had
