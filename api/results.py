"""Gather a batch's results: for every scene the take that stands for it."""

from collections.abc import Iterator, Sequence

from api.batch_responses import ResultLine
from api.batch_views import pages_of_scenes, present_failure, takes_by_key
from api.present import present_images
from api.service import Service
from shared.batches import Batch, BatchScene, Take, accepted_take, newest_take
from shared.jobs import Job
from shared.scenes import recipe_of

CONTENT_TYPE = "application/jsonl"


def results_of(batch: Batch, service: Service) -> bytes:
    """Write one line for each scene, in order: its accepted take, else its newest."""
    return b"".join(line.model_dump_json().encode() + b"\n" for line in _lines(batch, service))


def shown_take(scene: BatchScene, takes: Sequence[Take]) -> Take | None:
    """Choose the take that stands for a scene: the accepted one, else the newest."""
    return accepted_take(scene, takes) or newest_take(takes)


def _lines(batch: Batch, service: Service) -> Iterator[ResultLine]:
    takes = takes_by_key(service.backends.jobs, batch.id)
    for page in pages_of_scenes(service.backends.batches, batch.id):
        shown = [(scene, shown_take(scene, takes.get(scene.key, ()))) for scene in page]
        jobs = service.backends.jobs.get_all([take.job for _, take in shown if take])
        for scene, take in shown:
            job = jobs.get(take.job) if take else None  # one may have been forgotten meanwhile
            yield _line(scene, take, job) if take and job else _line_without_take(scene)


def _line(scene: BatchScene, take: Take, job: Job) -> ResultLine:
    return ResultLine(
        key=scene.key,
        status=job.status,
        take=take.take,
        job=job.id,
        images=present_images(job),
        seed=job.scene.seed,
        recipe=job.recipe,
        error=present_failure(job),
    )


def _line_without_take(scene: BatchScene) -> ResultLine:
    return ResultLine(
        key=scene.key,
        status=None,
        take=None,
        job=None,
        images=[],
        seed=scene.scene.seed,
        recipe=recipe_of(scene.scene),
        error=None,
    )
