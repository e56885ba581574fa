"""Find a tenant's job and show it as it stands."""

import re

from api.present import present_job
from api.problems import gone, not_found
from api.queue_view import Standing, place_of, read_standing
from api.responses import JobBody
from api.service import Service
from shared.errors import JobNotFound
from shared.jobs import Job
from shared.vocabulary import Status

_JOB_ID = re.compile(r"job_[a-z2-7]{26}")


def find_job(id: str, tenant: str, service: Service) -> Job:
    """Read a job; raises a Refusal, 404 for another tenant's and 410 for a deleted one."""
    missing = not_found(f"there is no job {id[:64]!r}")
    if not _JOB_ID.fullmatch(id):
        raise missing
    try:
        job = service.backends.jobs.get(id)
    except JobNotFound:
        raise missing from None
    if job.tenant != tenant:
        raise missing
    if job.deleted_at:
        raise gone(f"{id} was deleted")
    return job


def show_job(job: Job, service: Service, standing: Standing | None = None) -> JobBody:
    """Show a job with its place in the queue."""
    place = None
    if not job.status.final:
        standing = standing or read_standing(service.backends, service.settings)
        ahead = service.backends.jobs.ahead(job) if job.status is Status.QUEUED else None
        place = place_of(job, ahead, standing)
    return present_job(job, place, service.settings)


def list_jobs(jobs: tuple[Job, ...], service: Service) -> list[JobBody]:
    """Show jobs without their positions, which take a query each."""
    standing = read_standing(service.backends, service.settings)
    return [present_job(job, place_of(job, None, standing), service.settings) for job in jobs]
