"""Batches: scenes that belong together, their takes, and what is worth drawing again. All pure."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from shared.jobs import Job
from shared.scenes import Scene, Weights, recipe_of
from shared.vocabulary import Priority, Status

PAGE = 200  # documents that one transaction can keep, on every backend
MOST_ADDED = 100  # scenes: each comes with a job, and both are documents
MOST_CHANGED = 50  # scenes: each with its new job and the former one; half the room is left


class BatchStatus(StrEnum):
    """Where a batch stands; only `accepting` is stored, the rest follows from its takes."""

    ACCEPTING = "accepting"
    RUNNING = "running"
    COMPLETED = "completed"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    CANCELED = "canceled"


class SeedPolicy(StrEnum):
    """How the scenes of a batch get their seeds from its base."""

    FIXED = "fixed"
    PER_SCENE = "per_scene"
    INCREMENT = "increment"


class Reseed(StrEnum):
    """What a reprocess does with a scene's seed."""

    KEEP = "keep"
    NEW = "new"
    INCREMENT = "increment"


class Skip(StrEnum):
    """Why a selected scene gets no new take."""

    IN_PROGRESS = "in_progress"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Scenes submitted together; they wait in one artifact until each has its own document."""

    id: str
    tenant: str
    title: str
    created_at: datetime
    updated_at: datetime
    scene_count: int
    artifact: str
    generation: int
    defaults: Mapping[str, object]  # as submitted: an edited scene is read against them
    schema: int = 1
    version: int = 1
    expanded: int = 0  # scenes that have a document and a job
    canceled: bool = False
    canceling: bool = False  # some of its jobs may not have heard of it yet
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchScene:
    """A scene of a batch as it is wanted now, and which of its takes is the newest."""

    batch: str
    key: str
    position: int
    scene: Scene
    source: Mapping[str, object]  # as submitted, without the batch's defaults
    revision: int = 1
    last_take: int = 1
    accepted_take: int | None = None  # a person's choice; none means the newest that succeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One job's result for a scene, as much of it as selecting needs."""

    job: str
    key: str
    take: int
    status: Status
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneChange:
    """What a transaction on a scene writes: the scene, and the job of a new take if any."""

    scene: BatchScene
    job: Job | None = None


def expansion_done(batch: Batch) -> bool:
    """Whether every scene has its document and its first job."""
    return batch.expanded >= batch.scene_count


def settled(batch: Batch) -> bool:
    """Whether neither its expansion nor its cancel is left to be finished."""
    return expansion_done(batch) and not batch.canceling


def standing(batch: Batch, counts: Mapping[Status, int]) -> BatchStatus:
    """Say where a batch stands, from how many scenes' newest takes have which status."""
    if not expansion_done(batch):
        return BatchStatus.ACCEPTING
    if counts.get(Status.QUEUED, 0) + counts.get(Status.RUNNING, 0):
        return BatchStatus.RUNNING
    if batch.canceled:
        return BatchStatus.CANCELED
    if counts.get(Status.FAILED, 0) + counts.get(Status.CANCELED, 0):
        return BatchStatus.COMPLETED_WITH_FAILURES
    return BatchStatus.COMPLETED


def refuse_more_than(most: int, count: int, what: str) -> None:
    """Raise ValueError if a caller asks for more than one transaction can keep."""
    if count > most:
        raise ValueError(f"{count} {what} at once: {most} are the most")


def groups(names: Sequence[str], most: int = PAGE) -> Iterator[list[str]]:
    """Divide names, each once, into groups of what one read or transaction can take."""
    once = list(dict.fromkeys(names))
    for start in range(0, len(once), most):
        yield once[start : start + most]


def take_id(batch: str, key: str, take: int) -> str:
    """Name the job of a take: always the same, so that creating it twice is harmless."""
    digest = hashlib.sha256(f"{batch}\0{key}\0{take}".encode()).digest()[:16]
    return "job_" + base64.b32encode(digest).decode().rstrip("=").lower()


def scene_seed(policy: SeedPolicy, base: int, *, key: str, position: int) -> int:
    """Choose a scene's seed: the base, one derived from base and key, or base + position."""
    if policy is SeedPolicy.FIXED:
        return base
    if policy is SeedPolicy.INCREMENT:
        return (base + position) % 2**32
    return int.from_bytes(hashlib.sha256(f"{base}\0{key}".encode()).digest()[:4])


def take_of(job: Job) -> Take | None:
    """Read which take a job is; none for a job of no batch, or one that was deleted."""
    if job.scene_key is None or job.take is None or job.deleted_at:
        return None
    return Take(job=job.id, key=job.scene_key, take=job.take, status=job.status, recipe=job.recipe)


def newest_take(takes: Sequence[Take]) -> Take | None:
    """Find the take with the highest number."""
    return max(takes, key=lambda take: take.take, default=None)


def accepted_take(scene: BatchScene, takes: Sequence[Take]) -> Take | None:
    """Find the take that stands for the scene: a person's choice, else the newest succeeded."""
    succeeded = [take for take in takes if take.status is Status.SUCCEEDED]
    chosen = [take for take in succeeded if take.take == scene.accepted_take]
    return newest_take(chosen or succeeded)


def is_stale(scene: BatchScene, takes: Sequence[Take], *, weights: Weights) -> bool:
    """Whether the scene's present recipe differs from that of its accepted take."""
    accepted = accepted_take(scene, takes)
    return accepted is not None and accepted.recipe != present_recipe(scene, weights=weights)


def present_recipe(scene: BatchScene, *, weights: Weights) -> str:
    """Digest what drawing the scene now would be, with the weights that are served now."""
    return recipe_of(replace(scene.scene, weights=weights))


def skip_reason(
    wanted: Scene, newest: Take | None, accepted: Take | None, *, force: bool
) -> Skip | None:
    """Say why a selected scene gets no new take, or None if it gets one.

    `wanted` is the scene with the overrides and the seed of this reprocess. A scene whose newest
    take failed is never unchanged: whoever selects it wants it drawn again.
    """
    if newest is None:
        return None
    if not newest.status.final:
        return Skip.IN_PROGRESS
    drawn = newest.status is Status.SUCCEEDED and accepted is not None
    if drawn and accepted and accepted.recipe == recipe_of(wanted) and not force:
        return Skip.UNCHANGED
    return None


def revise(scene: BatchScene, wanted: Scene, source: Mapping[str, object]) -> BatchScene:
    """Change what a scene wants; nothing happens if it wants that already."""
    if wanted == scene.scene and source == scene.source:
        return scene
    return replace(scene, scene=wanted, source=source, revision=scene.revision + 1)


def stamp_batch(before: Batch, after: Batch, now: datetime) -> Batch:
    """Count the version up, as every store does with every change that it writes."""
    return replace(after, version=before.version + 1, updated_at=now)
