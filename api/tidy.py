"""Remove what nobody will read again: leftovers of attempts, retired jobs, unused uploads."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from shared.batches import accepted_take
from shared.errors import JobNotFound, SceneNotFound
from shared.jobs import Job, delete, finish_cleanup, keep_until
from shared.ports import ArtifactStore, BatchStore, JobChange, JobStore
from shared.wiring import Backends

NEEDED_FOR = timedelta(days=1)  # then it is asked again whether a job still needs an upload


def clean_up(jobs: JobStore, artifacts: ArtifactStore, *, limit: int) -> int:
    """Remove the artifacts that ended jobs left behind, once; a deleted job's are all of them."""
    cleaned = 0
    for job in jobs.untidy(limit):
        for name in leftovers(job):
            artifacts.delete(name)
        changed = _update(jobs, job, partial(_tidied, seen=job))
        cleaned += changed is not None and changed.cleanup_due is None
    return cleaned


def leftovers(job: Job) -> Iterator[str]:
    """Name every artifact that attempts of this job may have stored and that no reader follows."""
    for attempt in range(1, job.attempt + 1):
        if job.deleted_at is None and attempt == job.images_attempt:
            continue
        for index in range(job.scene.count):
            yield f"jobs/{job.id}/a{attempt}/{index}.{job.scene.format}"


def retire(
    jobs: JobStore, batches: BatchStore, *, now: datetime, retention: timedelta, limit: int
) -> int:
    """Delete the jobs whose time is over, and forget the tombstones of those deleted long ago.

    A take lives on while its batch shows it: the accepted one and the newest of each scene.
    """
    retired = 0
    for job in jobs.retired(limit):
        if job.deleted_at is not None:
            if job.cleanup_due is None:
                jobs.remove(job.id)
                retired += 1
        elif _shown(jobs, batches, job):
            _update(jobs, job, partial(keep_until, expire_at=now + retention))
        else:
            changed = _update(jobs, job, _deleted)
            retired += changed is not None and changed.deleted_at is not None
    return retired


def drop_uploads(backends: Backends, *, now: datetime, limit: int) -> int:
    """Remove the uploads whose time is over, and their bytes if no tenant has them any more.

    One that is kept or sent again meanwhile stays.
    """
    dropped = 0
    for asset in backends.assets.retired(limit):
        if backends.jobs.needs_asset(asset.id):
            backends.assets.keep(asset.tenant, asset.id, until=now + NEEDED_FOR)
            continue
        if backends.assets.remove(asset):
            backends.artifacts.delete(asset.artifact)
        dropped += 1
    return dropped


def _shown(jobs: JobStore, batches: BatchStore, job: Job) -> bool:
    if job.batch is None or job.scene_key is None:
        return False
    if not job.superseded:
        return True
    try:
        scene = batches.scene(job.batch, job.scene_key)
    except SceneNotFound:
        return False
    accepted = accepted_take(scene, jobs.takes(job.batch, [job.scene_key]))
    return accepted is not None and accepted.job == job.id


def _tidied(job: Job, now: datetime, *, seen: Job) -> Job:
    # deleted since its leftovers were listed: its images are still there, so it is not done
    return finish_cleanup(job, now) if job.deleted_at == seen.deleted_at else job


def _deleted(job: Job, now: datetime) -> Job:
    # kept since the list was made, because a person accepted it
    return job if job.expire_at > now else delete(job, now)


def _update(jobs: JobStore, job: Job, change: JobChange) -> Job | None:
    try:
        return jobs.update(job.id, change)
    except JobNotFound:  # another sweep removed it
        return None
