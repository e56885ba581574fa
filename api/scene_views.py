"""Show the scenes of a batch, each beside its newest and its accepted take."""

import hashlib
import re
from collections.abc import Mapping, Sequence

from api.batch_requests import ScenesQuery
from api.batch_responses import SceneBody, SceneTakesBody, TakeBody
from api.batch_views import PAGE, TakesByKey, present_failure, takes_by_key
from api.present import present_images, present_scene
from api.service import Service
from shared.batches import Batch, BatchScene, Take, accepted_take, is_stale, newest_take
from shared.errors import BadCursor
from shared.jobs import Job
from shared.vocabulary import Status


def page_of_scenes(
    query: ScenesQuery, batch: Batch, service: Service
) -> tuple[list[SceneBody], str | None]:
    """Show a page of scenes in order, and say where the next one begins; raises BadCursor."""
    of = f"{batch.id}\0{query.status or ''}"
    after = _read_cursor(query.cursor, of=of)
    found: list[BatchScene] = []
    takes: dict[str, list[Take]] = {}
    while len(found) <= query.limit:
        page = service.backends.batches.scenes(batch.id, after=after, limit=PAGE)
        if not page:
            break
        after = page[-1].position
        theirs = takes_by_key(service.backends.jobs, batch.id, [scene.key for scene in page])
        takes |= theirs
        found += [scene for scene in page if _has_status(theirs.get(scene.key, ()), query.status)]
    shown, more = found[: query.limit], len(found) > query.limit
    jobs = _jobs_beside(shown, takes, service)
    bodies = [_scene_body(scene, takes.get(scene.key, ()), jobs, service) for scene in shown]
    return bodies, _cursor(shown[-1].position, of=of) if more else None


def show_scene(scene: BatchScene, service: Service) -> SceneTakesBody:
    """Show a scene with all of its takes, the newest first."""
    takes = service.backends.jobs.takes(scene.batch, [scene.key])
    jobs = service.backends.jobs.get_all([take.job for take in takes])
    body = _scene_body(scene, takes, jobs, service)
    accepted = accepted_take(scene, takes)
    newest_first = sorted(takes, key=lambda take: -take.take)
    shown = [_take_body(take, accepted, jobs) for take in newest_first]
    return SceneTakesBody(**dict(body), takes=[take for take in shown if take])


def _cursor(position: int, *, of: str) -> str:
    digest = hashlib.sha256(f"{of}\0{position}".encode()).hexdigest()[:16]
    return f"{position}-{digest}"


def _read_cursor(cursor: str | None, *, of: str) -> int:
    if cursor is None:
        return -1
    position = cursor.partition("-")[0]
    if not re.fullmatch("[0-9]{1,9}", position) or cursor != _cursor(int(position), of=of):
        raise BadCursor("not a cursor of this list")
    return int(position)


def _has_status(takes: Sequence[Take], status: Status | None) -> bool:
    newest = newest_take(takes)
    return status is None or (newest is not None and newest.status is status)


def _jobs_beside(
    scenes: Sequence[BatchScene], takes: TakesByKey, service: Service
) -> Mapping[str, Job]:
    """Read the jobs of the takes that are shown beside each scene."""
    beside = [(scene, takes.get(scene.key, ())) for scene in scenes]
    newest = [newest_take(theirs) for _, theirs in beside]
    accepted = [accepted_take(scene, theirs) for scene, theirs in beside]
    return service.backends.jobs.get_all([take.job for take in (*newest, *accepted) if take])


def _scene_body(
    scene: BatchScene, takes: Sequence[Take], jobs: Mapping[str, Job], service: Service
) -> SceneBody:
    newest, accepted = newest_take(takes), accepted_take(scene, takes)
    return SceneBody(
        key=scene.key,
        batch=scene.batch,
        position=scene.position,
        revision=scene.revision,
        status=newest.status if newest else None,
        stale=is_stale(scene, takes, weights=service.weights),
        input=present_scene(scene.scene),
        newest=_take_body(newest, accepted, jobs),
        accepted=_take_body(accepted, accepted, jobs),
    )


def _take_body(
    take: Take | None, accepted: Take | None, jobs: Mapping[str, Job]
) -> TakeBody | None:
    job = jobs.get(take.job) if take else None
    if take is None or job is None:  # one may have been forgotten meanwhile
        return None
    return TakeBody(
        take=take.take,
        job=job.id,
        status=job.status,
        accepted=accepted is not None and accepted.take == take.take,
        seed=job.scene.seed,
        recipe=job.recipe,
        images=present_images(job),
        error=present_failure(job),
        created_at=job.created_at,
        finished_at=job.finished_at,
    )
