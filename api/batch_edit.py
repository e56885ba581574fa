"""Change a batch after it was accepted: edit a scene, accept a take, cancel what is left."""

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import cast

from api.batch_requests import SceneSource
from api.batch_submit import read_surroundings
from api.batch_views import find_scene
from api.batch_wishes import edited
from api.expand import finish_cancel
from api.problems import Refusal, invalid, not_found
from api.scene_input import SceneRefused
from api.service import Service
from shared.batches import Batch, BatchScene, SceneChange
from shared.jobs import Job, keep_until
from shared.vocabulary import Status

LONGEST_TAKE = 9  # digits


def edit_scene(said: SceneSource, key: str, batch: Batch, service: Service) -> BatchScene:
    """Say anew what a scene wants; it is drawn so when it is reprocessed.

    Raises a Refusal with every fault, and SceneNotFound.
    """
    inherited = cast(list[str], batch.defaults.get("references", []))
    named = said.references if "references" in said.model_fields_set else inherited
    around = read_surroundings(named, batch.tenant, service)
    find_scene(key, batch, service)

    def rule(scene: BatchScene, newest: Job | None, now: datetime) -> SceneChange | None:
        changed = edited(scene, batch, said, around)
        return None if changed is scene else SceneChange(scene=changed)

    try:
        service.backends.batches.update_scenes(batch.id, [key], rule)
    except SceneRefused as refused:
        raise invalid(refused.faults) from None
    for name in around.assets:
        service.backends.assets.keep(batch.tenant, name, until=None)
    return service.backends.batches.scene(batch.id, key)


def accept_take(number: str, key: str, batch: Batch, service: Service) -> BatchScene:
    """Let a take stand for its scene, whatever is drawn later.

    Raises a Refusal unless it is there and succeeded, and SceneNotFound.
    """
    find_scene(key, batch, service)
    takes = service.backends.jobs.takes(batch.id, [key])
    known = {str(take.take): take for take in takes}
    take = known.get(number)
    if take is None:
        raise not_found(f"scene {key!r} has no take {number[:LONGEST_TAKE]!r}")
    if take.status is not Status.SUCCEEDED:
        detail = f"take {take.take} of scene {key!r} is {take.status}; only a succeeded one counts"
        raise Refusal(status=409, code="take_not_succeeded", detail=detail)
    # first the images' life, then the choice: the sweep must not retire what is chosen
    kept = service.backends.workers.now() + service.settings.retention
    service.backends.jobs.update(take.job, partial(keep_until, expire_at=kept))
    rule = partial(_accepted, take=take.take)
    service.backends.batches.update_scenes(batch.id, [key], rule)
    return service.backends.batches.scene(batch.id, key)


def cancel_batch(batch: Batch, service: Service) -> Batch:
    """Cancel what waits, ask workers to stop what is drawn; scenes without a job follow suit.

    What a crash leaves undone the sweep does. It may be repeated: what has ended stays as it is.
    """
    canceled = service.backends.batches.update(batch.id, _canceled)
    return finish_cancel(service.backends, service.settings, canceled)


def _accepted(
    scene: BatchScene, newest: Job | None, now: datetime, *, take: int
) -> SceneChange | None:
    if scene.accepted_take == take:
        return None
    return SceneChange(scene=replace(scene, accepted_take=take))


def _canceled(batch: Batch, now: datetime) -> Batch:
    return replace(batch, canceled=True, canceling=True)
