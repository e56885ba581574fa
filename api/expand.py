"""Expand accepted batches into documents and jobs, and cancel them, page by page."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from api.alone import alone
from api.batch_takes import new_take
from shared.batches import Batch, BatchScene, expansion_done
from shared.documents import from_json, to_json
from shared.errors import ArtifactError
from shared.jobs import Job, cancel
from shared.ports import JobFilter
from shared.settings import Settings
from shared.vocabulary import Status
from shared.wiring import Backends

PAGE = 100
JOBS_PER_PAGE = 200
PAGES_PER_SWEEP = 20
ALL_PAGES = 10_000
BATCHES_PER_SWEEP = 10
BATCHES_LISTED = 100  # more than are finished, so that those with a fault hold up no others

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


def finish_batches(backends: Backends, settings: Settings) -> tuple[int, bool]:
    """Go on expanding and canceling where a request or a crash left off.

    Says how many scenes were added, and whether there are more to add.
    """
    left, added, finished = PAGES_PER_SWEEP, 0, 0
    unfinished = False
    for batch in backends.batches.unfinished(BATCHES_LISTED):
        if not left or finished == BATCHES_PER_SWEEP:
            return added, True
        after = _gone_on(backends, settings, batch, pages=left)
        if after is None:
            continue
        scenes = after.expanded - batch.expanded
        added += scenes
        left -= -(-scenes // PAGE)
        finished += 1
        unfinished = unfinished or not expansion_done(after)
    return added, unfinished


def finish_cancel(backends: Backends, settings: Settings, batch: Batch) -> Batch:
    """Cancel a batch's unfinished jobs, page by page; repeating it is harmless."""
    for status in (Status.QUEUED, Status.RUNNING):
        wanted = JobFilter(tenant=batch.tenant, batch=batch.id, status=status)
        cursor: str | None = None
        while True:
            page = backends.jobs.find(wanted, limit=JOBS_PER_PAGE, cursor=cursor)
            cancel_all(backends, settings, [job.id for job in page.items])
            cursor = page.cursor
            if cursor is None:
                break
    return backends.batches.update(batch.id, _cancel_done)


def cancel_all(backends: Backends, settings: Settings, jobs: Sequence[str]) -> None:
    """Cancel up to 200 jobs at once; those that have ended stay as they are."""
    backends.jobs.update_all(jobs, partial(cancel, terms=settings.terms))


def _gone_on(backends: Backends, settings: Settings, batch: Batch, *, pages: int) -> Batch | None:
    """Go on with one batch, and return it as it is then; nothing if a fault of its own forbids."""
    after: Batch | None = None
    with alone("batch_not_finished", backends.workers, batch_id=batch.id):
        try:
            after = expand(backends, settings, batch, pages=pages)
        except ArtifactError as error:  # its jobs can be canceled all the same
            event = {"batch_id": batch.id, "error": type(error).__name__}
            log.warning("expansion_failed", extra=event)
        if (after or batch).canceling:
            canceled = finish_cancel(backends, settings, after or batch)
            after = after and canceled
        return after
    return None


def _cancel_done(batch: Batch, now: datetime) -> Batch:
    return replace(batch, canceling=False) if batch.canceling else batch


def _add(backends: Backends, settings: Settings, batch: Batch, scenes: list[BatchScene]) -> Batch:
    jobs = [_first_take(batch, scene, settings) for scene in scenes]
    backends.batches.add_scenes(scenes, jobs)
    # Whoever cancels a batch marks it, then cancels the jobs there are. If that was before these
    # jobs were there, the mark is to be seen now; and only then does the batch count them.
    if backends.batches.get(batch.id).canceled:
        cancel_all(backends, settings, [job.id for job in jobs])
    return backends.batches.update(batch.id, partial(_advanced, to=batch.expanded + len(scenes)))


def _first_take(batch: Batch, scene: BatchScene, settings: Settings) -> Job:
    job = new_take(batch, scene, 1, batch.created_at, retention=settings.retention)
    return cancel(job, batch.created_at, terms=settings.terms) if batch.canceled else job


def _advanced(batch: Batch, now: datetime, *, to: int) -> Batch:
    return batch if batch.expanded >= to else replace(batch, expanded=to)
