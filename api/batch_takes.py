"""Make the jobs of a batch's takes, and wake workers for a few of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from shared.batches import Batch, BatchScene, take_id
from shared.errors import JobNotFound, PublishFailed, StoreUnavailable
from shared.holds import why_not_woken
from shared.jobs import Job, confirm_wake, enqueue
from shared.messages import Wake
from shared.scenes import recipe_of
from shared.settings import Settings
from shared.vocabulary import Priority
from shared.wiring import Backends

WAKES_PER_WORKER = 2

log = logging.getLogger(__name__)


def new_take(
    batch: Batch,
    scene: BatchScene,
    take: int,
    now: datetime,
    *,
    retention: timedelta,
    request: str | None = None,
    retry_of: str | None = None,
) -> Job:
    """Make the job that draws a scene as it is wanted now; jobs of one time keep their order."""
    said: dict[str, Any] = {**batch.defaults, **scene.source}
    job = enqueue(
        id=take_id(batch.id, scene.key, take),
        tenant=batch.tenant,
        scene=scene.scene,
        recipe=recipe_of(scene.scene),
        now=now + timedelta(microseconds=scene.position),
        retention=retention,
        priority=Priority(said.get("priority", batch.priority)),
        metadata={**batch.metadata, **cast(Mapping[str, str], said.get("metadata", {}))},
        batch=batch.id,
        scene_key=scene.key,
        take=take,
        request=request,
        retry_of=retry_of,
    )
    return replace(job, not_before=now)


def wake_first(
    backends: Backends, settings: Settings, jobs: Sequence[str], *, traceparent: str | None
) -> None:
    """Send a few wake-ups for many new jobs: workers that are awake find the rest themselves.

    The jobs are stored already, so nothing is raised: the sweep wakes what is not woken here.
    """
    try:
        if why_not_woken(backends.jobs, backends.workers, settings):
            return
        for job in jobs[: WAKES_PER_WORKER * settings.workers]:
            backends.publisher.publish(Wake(job=job, traceparent=traceparent))
            backends.jobs.update(job, confirm_wake)
    except (PublishFailed, StoreUnavailable, JobNotFound) as error:
        log.warning("wake_failed", extra={"error": type(error).__name__})
