"""Whose turn it is: the order in which due jobs are drawn and woken. Pure."""

from collections.abc import Sequence
from datetime import timedelta

from shared.jobs import Job

PER_TENANT = 8  # how far among a tenant's oldest jobs to look for one like the last
PREFERRED_FOR = timedelta(minutes=5)  # or a stream of like jobs would starve the one unlike them


def next_in_turn(due: Sequence[Job], *, served: Sequence[str], last: Job | None) -> Job | None:
    """Choose among due jobs: priority, then tenants in turn, then like the last, then age.

    `served` are tenants in the order they were last served, the latest last. `last` is the job
    drawn before: one with its references and size finds their encodings still at hand.
    """
    if not due:
        return None
    rank = min(job.priority.rank for job in due)
    urgent = [job for job in due if job.priority.rank == rank]
    turn = {tenant: place for place, tenant in enumerate(served)}
    tenant = min(urgent, key=lambda job: (turn.get(job.tenant, -1), _age(job))).tenant
    theirs = sorted((job for job in urgent if job.tenant == tenant), key=_age)[:PER_TENANT]
    oldest = theirs[0]
    near = [job for job in theirs if job.created_at - oldest.created_at <= PREFERRED_FOR]
    return next((job for job in near if last and _alike(job, last)), oldest)


def in_turn(due: Sequence[Job], limit: int) -> list[Job]:
    """List the jobs that would be drawn first, at most `limit`."""
    waiting, served, chosen = list(due), list[str](), list[Job]()
    while waiting and len(chosen) < limit:
        job = next_in_turn(waiting, served=served, last=chosen[-1] if chosen else None)
        assert job is not None
        waiting.remove(job)
        served = after_serving(served, job.tenant)
        chosen.append(job)
    return chosen


def after_serving(served: Sequence[str], tenant: str) -> list[str]:
    """Put a tenant at the end of the line."""
    return [other for other in served if other != tenant] + [tenant]


def _age(job: Job) -> tuple[object, str]:
    return job.created_at, job.id


def _alike(job: Job, last: Job) -> bool:
    def needs(scene_of: Job) -> tuple[object, ...]:
        scene = scene_of.scene
        return scene.width, scene.height, *(reference.sha256 for reference in scene.references)

    return needs(job) == needs(last)
