"""Remove what nobody will read again: leftovers of attempts, retired jobs, unused uploads."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from api.alone import alone
from shared.artifact_names import image_name, latents_name
from shared.assets import Asset
from shared.batches import accepted_take
from shared.errors import JobNotFound, SceneNotFound
from shared.jobs import Job, delete, finish_cleanup, keep_until
from shared.ports import BatchStore, JobChange, JobStore
from shared.wiring import Backends

NEEDED_FOR = timedelta(days=1)  # then it is asked again whether a job still needs an upload


def clean_up(backends: Backends, *, limit: int) -> int:
    """Remove the artifacts that ended jobs left behind, once; a deleted job's are all of them."""
    cleaned = 0
    for job in backends.jobs.untidy(limit):
        with alone("job_not_tidied", backends.workers, job_id=job.id):
            for name in leftovers(job):
                backends.artifacts.delete(name)
            changed = _update(backends.jobs, job, partial(_tidied, seen=job))
            cleaned += changed is not None and changed.cleanup_due is None
    return cleaned


def leftovers(job: Job) -> Iterator[str]:
    """Name every artifact that attempts of this job may have stored and that no reader follows."""
    for attempt in range(1, job.attempt + 1):
        if job.deleted_at is None and attempt == job.images_attempt:
            continue
        for index in range(job.scene.count):
            yield image_name(job.id, attempt, index, job.scene.format)
    for latents in job.latents:  # of the committed attempt, too: nobody goes on from them
        yield latents_name(job.id, latents.attempt, latents.step)


def retire(backends: Backends, *, now: datetime, retention: timedelta, limit: int) -> int:
    """Delete the jobs whose time is over, and forget the tombstones of those deleted long ago.

    A take lives on while its batch shows it: the accepted one and the newest of each scene.
    """
    retired = 0
    for job in backends.jobs.retired(limit):
        with alone("job_not_retired", backends.workers, job_id=job.id):
            retired += _retire(backends, job, kept_until=now + retention)
    return retired


def drop_uploads(backends: Backends, *, now: datetime, limit: int) -> int:
    """Remove the uploads whose time is over, and their bytes if no tenant has them any more.

    One that is kept or sent again meanwhile stays.
    """
    dropped = 0
    for asset in backends.assets.retired(limit):
        with alone("upload_not_dropped", backends.workers, asset_id=asset.id):
            dropped += _drop(backends, asset, now)
    return dropped


def _retire(backends: Backends, job: Job, *, kept_until: datetime) -> bool:
    jobs = backends.jobs
    if job.deleted_at is not None:
        if job.cleanup_due is None:
            jobs.remove(job.id)
        return job.cleanup_due is None
    if _shown(jobs, backends.batches, job):
        _update(jobs, job, partial(keep_until, expire_at=kept_until))
        return False
    changed = _update(jobs, job, _deleted)
    return changed is not None and changed.deleted_at is not None


def _drop(backends: Backends, asset: Asset, now: datetime) -> bool:
    if backends.jobs.needs_asset(asset.id):
        backends.assets.keep(asset.tenant, asset.id, until=now + NEEDED_FOR)
        return False
    if backends.assets.remove(asset):
        backends.artifacts.delete(asset.artifact)
    return True


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
