"""Whose turn it is: the order in which due jobs are drawn and woken. Pure."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate, takewhile

from shared.jobs import Job
from shared.vocabulary import Status

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


def in_turn(
    due: Sequence[Job], limit: int, *, served: Sequence[str] = (), last: Job | None = None
) -> list[Job]:
    """List the jobs that would be drawn next, at most `limit`; see next_in_turn."""
    waiting, chosen = list(due), list[Job]()
    while waiting and len(chosen) < limit:
        last = next_in_turn(waiting, served=served, last=last)
        assert last is not None
        waiting.remove(last)
        served = after_serving(served, last.tenant)
        chosen.append(last)
    return chosen


def next_together(
    due: Sequence[Job], *, images: int, served: Sequence[str], last: Job | None
) -> list[Job]:
    """Choose what is drawn at once: the next in turn, and those after it as long as they fit.

    They fit if all have as many steps, one size and references of the same sizes, and at most
    `images` images in all. One that failed before is drawn alone: what ends a worker takes nobody
    else with it twice.
    """
    order = in_turn(due, max(1, images), served=served, last=last)
    fitting = list(takewhile(lambda job: _sharing(job) and _shape(job) == _shape(order[0]), order))
    counted = accumulate(job.scene.count for job in fitting)
    within = [job for job, count in zip(fitting, counted, strict=True) if count <= images]
    return within or order[:1]


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


def _sharing(job: Job) -> bool:
    return job.status is Status.QUEUED and not job.failures


def _shape(job: Job) -> tuple[object, ...]:
    scene = job.scene
    sizes = ((reference.width, reference.height) for reference in scene.references)
    return scene.width, scene.height, scene.steps, *sizes
