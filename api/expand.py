"""Give every scene of an accepted batch its document and its first job, page by page."""

import logging
from dataclasses import replace
from datetime import datetime
from functools import partial

from api.batch_takes import new_take
from shared.batches import Batch, BatchScene, expansion_done
from shared.documents import from_json, to_json
from shared.errors import ArtifactError, JobNotFound
from shared.jobs import Job, cancel
from shared.settings import Settings
from shared.wiring import Backends

PAGE = 100
PAGES_PER_SWEEP = 20
ALL_PAGES = 10_000
BATCHES_PER_SWEEP = 10

log = logging.getLogger(__name__)


def write_plan(scenes: list[BatchScene]) -> bytes:
    """Write validated scenes as the lines that `expand` reads."""
    return "".join(to_json(scene) + "\n" for scene in scenes).encode()


def expand(backends: Backends, settings: Settings, batch: Batch, *, pages: int) -> Batch:
    """Expand up to so many pages more, and return the batch as it is then.

    It may end anywhere and be started again, also twice at once: ids are derived and nothing that
    exists is written again. Raises ArtifactError if the planned scenes cannot be read.
    """
    if expansion_done(batch):
        return batch
    lines = backends.artifacts.get(batch.artifact, batch.generation).split(b"\n")
    for _ in range(pages):
        if expansion_done(batch):
            break
        planned = lines[batch.expanded : min(batch.expanded + PAGE, batch.scene_count)]
        scenes = [from_json(BatchScene, line) for line in planned]
        batch = _add(backends, settings, batch, scenes)
    return batch


def expand_unfinished(backends: Backends, settings: Settings) -> tuple[int, bool]:
    """Go on with the batches that a request or a crash left; say how many scenes, and if all."""
    left, added = PAGES_PER_SWEEP, 0
    unfinished = False
    for batch in backends.batches.unfinished(BATCHES_PER_SWEEP):
        if not left:
            return added, True
        try:
            after = expand(backends, settings, batch, pages=left)
        except ArtifactError as error:
            event = {"batch_id": batch.id, "error": type(error).__name__}
            log.warning("expansion_failed", extra=event)
            continue
        scenes = after.expanded - batch.expanded
        added += scenes
        left -= -(-scenes // PAGE)
        unfinished = unfinished or not expansion_done(after)
    return added, unfinished


def cancel_jobs(backends: Backends, settings: Settings, jobs: list[str]) -> None:
    """Cancel jobs, each on its own; those that have ended stay as they are."""
    change = partial(cancel, terms=settings.terms)
    for job in jobs:
        try:
            backends.jobs.update(job, change)
        except JobNotFound:
            continue


def _add(backends: Backends, settings: Settings, batch: Batch, scenes: list[BatchScene]) -> Batch:
    jobs = [_first_take(batch, scene, settings) for scene in scenes]
    backends.batches.add_scenes(scenes, jobs)
    # Whoever cancels a batch marks it, then cancels the jobs there are. If that was before these
    # jobs were there, the mark is to be seen now; and only then does the batch count them.
    if backends.batches.get(batch.id).canceled:
        cancel_jobs(backends, settings, [job.id for job in jobs])
    return backends.batches.update(batch.id, partial(_advanced, to=batch.expanded + len(scenes)))


def _first_take(batch: Batch, scene: BatchScene, settings: Settings) -> Job:
    job = new_take(batch, scene, 1, batch.created_at, retention=settings.retention)
    return cancel(job, batch.created_at, terms=settings.terms) if batch.canceled else job


def _advanced(batch: Batch, now: datetime, *, to: int) -> Batch:
    return batch if batch.expanded >= to else replace(batch, expanded=to)
