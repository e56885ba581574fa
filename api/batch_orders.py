"""Decide what becomes of a scene that somebody wants drawn again. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from api.batch_faults import refused
from api.batch_scenes import Source, Surroundings
from api.batch_takes import new_take
from api.batch_wishes import overridden
from api.idempotency import KEPT_FOR
from api.problems import Fault, pointer
from api.scene_input import SceneRefused
from shared.batches import (
    Batch,
    BatchScene,
    Reseed,
    SceneChange,
    Skip,
    Take,
    accepted_take,
    newest_take,
    skip_reason,
    take_id,
    take_of,
)
from shared.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of every selected scene; a repeated request has the same `request`."""

    batch: Batch
    overrides: Source
    around: Surroundings
    reseed: Reseed
    force: bool
    request: str
    retention: timedelta
    retry_of: str | None = None
    full: bool = False  # the quota has no room: what would get a new take is skipped


class NoRoom(StrEnum):
    """Why a scene that should be drawn again gets no new take after all."""

    QUOTA = "quota"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of one selected scene: it gets the job of a new take, or is skipped."""

    key: str
    job: str | None = None
    skip: Skip | NoRoom | None = None


def wanted(scene: BatchScene, order: Order) -> BatchScene:
    """Say what a scene is to want from now on; raises SceneRefused."""
    return overridden(
        scene,
        order.batch,
        order.overrides,
        order.around,
        reseed=order.reseed,
        dice=order.request,
    )


def foresee(scene: BatchScene, takes: Sequence[Take], order: Order) -> Outcome:
    """Say what carrying out an order would do to a scene; raises SceneRefused."""
    reason = skip_reason(
        wanted(scene, order).scene,
        newest_take(takes),
        accepted_take(scene, takes),
        force=order.force,
    )
    if reason:
        return Outcome(key=scene.key, skip=reason)
    return Outcome(key=scene.key, job=take_id(scene.batch, scene.key, scene.last_take + 1))


def foresee_all(
    scenes: Sequence[BatchScene], takes: Mapping[str, Sequence[Take]], order: Order
) -> list[Outcome]:
    """Foresee what becomes of all; raises a Refusal if the overrides do not fit one of them."""
    outcomes, faults = list[Outcome](), list[Fault]()
    for scene in scenes:
        try:
            outcomes.append(foresee(scene, takes.get(scene.key, ()), order))
        except SceneRefused as unfit:
            faults += [_placed(fault, scene) for fault in unfit.faults]
    if faults:
        raise refused(faults, under="overrides")
    return outcomes


def carry_out(
    scene: BatchScene,
    newest: Job | None,
    now: datetime,
    *,
    takes: Sequence[Take],
    order: Order,
) -> tuple[Outcome, SceneChange | None]:
    """Give a scene its new take, unless it needs none or this very request gave it one before.

    `takes` may be as old as the order: only the newest one can have ended since then.
    """
    if newest is not None and asked_for(newest, order.request, now):
        return Outcome(key=scene.key, job=newest.id), None
    outcome = foresee(scene, _as_of_now(takes, newest), order)
    if outcome.skip:
        return outcome, None
    if order.full:
        return Outcome(key=scene.key, skip=NoRoom.QUOTA), None
    number = scene.last_take + 1
    changed = replace(wanted(scene, order), last_take=number)
    job = new_take(
        order.batch,
        changed,
        number,
        now,
        retention=order.retention,
        request=order.request,
        retry_of=order.retry_of,
    )
    return outcome, SceneChange(scene=changed, job=job)


def asked_for(job: Job, request: str, now: datetime) -> bool:
    """Whether a request that is repeated now has asked for this job."""
    # an Idempotency-Key may be used anew once it has been forgotten
    return job.request == request and now - job.created_at < KEPT_FOR


def _placed(fault: Fault, scene: BatchScene) -> Fault:
    where = pointer("overrides") + fault.pointer
    return Fault(pointer=where, detail=f"scene {scene.key}: {fault.detail}")


def _as_of_now(takes: Sequence[Take], newest: Job | None) -> list[Take]:
    told = take_of(newest) if newest else None
    if newest is None or told is None:
        return list(takes)
    return [*(take for take in takes if take.job != told.job), told]
