"""Draw scenes of a batch again: each selected scene gets a new take, unless it needs none."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from api.batch_orders import Order, Outcome, carry_out, foresee, foresee_all
from api.batch_requests import ReprocessRequest
from api.batch_responses import ReprocessBody, SkippedBody
from api.batch_selection import Asked, TakesByKey, asked_before, selected_scenes
from api.batch_submit import read_surroundings
from api.batch_takes import wake_first
from api.batch_views import find_scene, takes_by_key
from api.batch_wishes import overrides_of
from api.expand import ALL_PAGES, cancel_all, expand
from api.idempotency import Once
from api.problems import Fault, Refusal, invalid, pointer
from api.rate_limits import judge, quota_of, refusing_excess
from api.service import Service
from shared.batches import (
    Batch,
    BatchScene,
    Reseed,
    SceneChange,
    Skip,
    Take,
    expansion_done,
    newest_take,
)
from shared.errors import QuotaExceeded
from shared.jobs import Job

CHUNK = 50  # scenes that one transaction changes, on every backend


def reprocess(
    wish: ReprocessRequest, batch: Batch, service: Service, *, once: Once | None, traceparent: str
) -> ReprocessBody:
    """Give every selected scene a new take, in transactions of a few scenes each.

    Nothing is changed if a Refusal is raised, as one is unless the quota has room for all. Should
    others fill it meanwhile, the scenes that are left are skipped. With a key it may be repeated
    wherever it ended: the scenes that it has served already are counted again and get nothing more.
    """
    _refuse_unclear(wish)
    if not wish.dry_run:
        batch = expand(service.backends, service.settings, batch, pages=ALL_PAGES)
    request = _request_of(once, service)
    takes = takes_by_key(service.backends.jobs, batch.id)
    asked = asked_before(takes, request, service) if once else _never
    scenes = selected_scenes(wish.select, batch, takes, service, asked=asked)
    order = _order(wish, batch, scenes, service, request=request)
    foreseen = foresee_all(scenes, takes, order)
    _require_room(foreseen, batch.tenant, service, takes=takes, asked=asked, at=pointer("select"))
    if wish.dry_run:
        return _body(foreseen, batch, dry_run=True)
    if any(outcome.job for outcome in foreseen):
        service.backends.batches.update(batch.id, _revived)
        _keep_assets(order, service)
    outcomes = list(_carried_out(order, scenes, takes, service))
    jobs = [outcome.job for outcome in outcomes if outcome.job]
    if jobs:
        _keep_assets(order, service)  # a take that was in progress may have ended meanwhile
    wake_first(service.backends, service.settings, jobs, traceparent=traceparent)
    return _body(outcomes, batch, dry_run=False)


def retake_scene(job: Job, service: Service, *, once: Once | None, traceparent: str) -> Job:
    """Draw the scene of a batch's job again, as it is wanted now; return the new take's job.

    Raises a Refusal while a take of the scene is in progress, and if the quota has no room. May be
    repeated, see reprocess.
    """
    assert job.batch is not None
    assert job.scene_key is not None
    batch = service.backends.batches.get(job.batch)
    if batch.canceled:  # the scenes that have no job yet get canceled ones before it is revived
        batch = expand(service.backends, service.settings, batch, pages=ALL_PAGES)
    scene = find_scene(job.scene_key, batch, service)
    pinned = [reference.asset for reference in scene.scene.references]
    request = _request_of(once, service)
    order = Order(
        batch=batch,
        overrides={},
        around=read_surroundings(pinned, batch.tenant, service),
        reseed=Reseed.KEEP,
        force=True,
        request=request,
        retention=service.settings.retention,
        retry_of=job.id,
    )
    takes = takes_by_key(service.backends.jobs, batch.id, [scene.key])
    foreseen = [foresee(scene, takes.get(scene.key, ()), order)]
    asked = asked_before(takes, request, service) if once else _never
    _require_room(foreseen, batch.tenant, service, takes=takes, asked=asked)
    service.backends.batches.update(batch.id, _revived)
    _keep_assets(order, service)
    with refusing_excess(1, batch.tenant, service):
        [outcome] = _chunk(order, [scene.key], takes, service)
    if outcome.job is None:
        detail = f"scene {scene.key!r} of {batch.id} is being drawn again already"
        raise Refusal(status=409, code=str(Skip.IN_PROGRESS), detail=detail)
    wake_first(service.backends, service.settings, [outcome.job], traceparent=traceparent)
    return service.backends.jobs.get(outcome.job)


def _refuse_unclear(wish: ReprocessRequest) -> None:
    if wish.overrides.seed is not None and wish.seed is not Reseed.KEEP:
        detail = f"overrides.seed says which seed; leave out {wish.seed.value!r}"
        raise invalid([Fault(pointer=pointer("seed"), detail=detail)])


def _order(
    wish: ReprocessRequest,
    batch: Batch,
    scenes: Sequence[BatchScene],
    service: Service,
    *,
    request: str,
) -> Order:
    own = wish.overrides.references
    pinned = {r.asset: None for scene in scenes for r in scene.scene.references}
    around = read_surroundings([*own, *pinned], batch.tenant, service)
    missing = [
        Fault(pointer=pointer("overrides", "references", place), detail="there is no such asset")
        for place, name in enumerate(own)
        if name not in around.assets
    ]
    if missing:
        raise invalid(missing)
    return Order(
        batch=batch,
        overrides=overrides_of(wish.overrides),
        around=around,
        reseed=wish.seed,
        force=wish.force,
        request=request,
        retention=service.settings.retention,
    )


def _keep_assets(order: Order, service: Service) -> None:
    for name in order.around.assets:
        service.backends.assets.keep(order.batch.tenant, name, until=None)


def _require_room(
    foreseen: Sequence[Outcome],
    tenant: str,
    service: Service,
    *,
    takes: TakesByKey,
    asked: Asked,
    at: str | None = None,
) -> None:
    new = [outcome.key for outcome in foreseen if outcome.job]
    with refusing_excess(len(new), tenant, service, pointer=at):
        try:
            judge(len(new), tenant, service)
        except QuotaExceeded:
            # what this very request made before it was cut off has been charged already
            newest = [newest_take(takes.get(key, ())) for key in new]
            judge(sum(not (take and asked(take)) for take in newest), tenant, service)


def _carried_out(
    order: Order, scenes: Sequence[BatchScene], takes: TakesByKey, service: Service
) -> Iterator[Outcome]:
    for start in range(0, len(scenes), CHUNK):
        keys = [scene.key for scene in scenes[start : start + CHUNK]]
        try:
            outcomes = _chunk(order, keys, takes, service)
        except QuotaExceeded:
            order = replace(order, full=True)
            outcomes = _chunk(order, keys, takes, service)
        yield from outcomes


def _chunk(order: Order, keys: Sequence[str], takes: TakesByKey, service: Service) -> list[Outcome]:
    """Carry out an order for the scenes of one transaction; raises QuotaExceeded."""
    outcomes: dict[str, Outcome] = {}

    def rule(scene: BatchScene, newest: Job | None, now: datetime) -> SceneChange | None:
        outcome, change = carry_out(scene, newest, now, takes=takes.get(scene.key, ()), order=order)
        outcomes[scene.key] = outcome  # a rule that runs again writes it again
        return change

    quota = quota_of(service.settings)
    update = service.backends.batches.update_scenes
    charging = partial(update, quota=quota) if quota else update  # without one nothing is counted
    charging(order.batch.id, keys, rule)
    # the batch may have been canceled meanwhile, before these jobs were there to be canceled
    if service.backends.batches.get(order.batch.id).canceled:
        made = [outcome.job for outcome in outcomes.values() if outcome.job]
        cancel_all(service.backends, service.settings, made)
    return [outcomes[key] for key in keys]


def _revived(batch: Batch, now: datetime) -> Batch:
    # while scenes have no job yet, a cancel that came just now would be undone for them, too
    return replace(batch, canceled=False) if batch.canceled and expansion_done(batch) else batch


def _request_of(once: Once | None, service: Service) -> str:
    """Name a request: a repeated one has the same name, one without a key is like no other."""
    if once is None:
        return service.new_id("req")
    named = f"{once.tenant}\0{once.path}\0{once.key_sha256}\0{once.request_sha256}"
    return "req_" + hashlib.sha256(named.encode()).hexdigest()


def _never(take: Take) -> bool:
    return False


def _body(outcomes: Sequence[Outcome], batch: Batch, *, dry_run: bool) -> ReprocessBody:
    jobs = [outcome.job for outcome in outcomes if outcome.job]
    return ReprocessBody(
        batch=batch.id,
        dry_run=dry_run,
        selected=len(jobs),
        skipped=[SkippedBody(key=o.key, reason=o.skip) for o in outcomes if o.skip],
        jobs=jobs,
    )
