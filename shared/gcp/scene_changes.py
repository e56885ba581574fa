"""Changing scenes of a batch: what a rule decided from two documents, written if both are as read.

A scene and its newest job are read one after the other, so the scenes are read again after the
jobs: then every pair was so at one moment. At the commit the scene is compared because it is
written, and the job because it is written too, if only as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.batches import BatchScene, SceneChange, take_id
from shared.errors import StoreError, StoreUnavailable
from shared.gcp.firestore import Fields
from shared.gcp.job_documents import exists, job_of, write_job
from shared.gcp.scene_documents import read_scenes, scene_of, write_scene
from shared.gcp.shapes import JOBS
from shared.gcp.transactions import Transaction
from shared.gcp.usage import charge_jobs
from shared.jobs import Job, stamp, supersede
from shared.ports import SceneRule
from shared.quotas import Quota

READINGS = 10  # somebody else's change was written between any two of them


class RestsOnNothing(StoreError):
    """A change rests on there being no job of the newest take, which only locks can hold to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A scene and its newest take's job, as they were at one moment."""

    scene: BatchScene
    newest: Job | None
    fields: Fields | None  # the job's


def change_scenes(
    transaction: Transaction,
    *,
    batch: str,
    keys: Sequence[str],
    rule: SceneRule,
    quota: Quota | None,
    locking: bool,
) -> list[SceneChange]:
    """See BatchStore.update_scenes; raises RestsOnNothing if it lacks locks it needs."""
    found, jobs = _read(transaction, batch, keys, locking=locking)
    now = transaction.now
    wanted = [(rule(one.scene, one.newest, now), one) for one in found]
    changes = [change for change, _ in wanted if change]
    _charge(transaction, changes, quota)
    _refuse_taken(transaction, changes, jobs)
    for change, one in wanted:
        if change and one.fields is None and not locking:
            raise RestsOnNothing(f"{batch}: scene {one.scene.key!r} has no job of its newest take")
        if change:
            _write(transaction, change, one, now)
    return changes


def _read(
    transaction: Transaction, batch: str, keys: Sequence[str], *, locking: bool
) -> tuple[list[_Found], Mapping[str, Fields | None]]:
    """Read the pairs, and by id the jobs that there are of these takes and the next ones."""
    documents = read_scenes(transaction, batch, keys)
    for _ in range(READINGS):
        scenes = [scene_of(documents[key]) for key in keys]
        ids = [_take(scene, more) for scene in scenes for more in (0, 1)]
        there = transaction.get_all(JOBS, ids)
        before = documents
        if not locking:
            documents = read_scenes(transaction, batch, keys)
        if documents == before:  # to the nonces of their last writes
            found = [_pair(scene, there.get(_take(scene, 0))) for scene in scenes]
            return found, {id: there.get(id) for id in ids}
    raise StoreUnavailable(f"others are changing scenes of {batch} all the time; try again")


def _take(scene: BatchScene, more: int) -> str:
    return take_id(scene.batch, scene.key, scene.last_take + more)


def _pair(scene: BatchScene, fields: Fields | None) -> _Found:
    return _Found(scene=scene, newest=job_of(fields) if fields else None, fields=fields)


def _charge(transaction: Transaction, changes: Sequence[SceneChange], quota: Quota | None) -> None:
    jobs = [change.job for change in changes if change.job]
    if jobs:
        charge_jobs(transaction, jobs[0].tenant, len(jobs), quota)


def _refuse_taken(
    transaction: Transaction, changes: Sequence[SceneChange], read: Mapping[str, Fields | None]
) -> None:
    """Raise JobExists if a new job has the id of one that is there."""
    new = [change.job.id for change in changes if change.job]
    there = {**read, **transaction.get_all(JOBS, [id for id in new if id not in read])}
    for id in new:
        if there.get(id):
            raise exists(id)


def _write(transaction: Transaction, change: SceneChange, found: _Found, now: datetime) -> None:
    write_scene(transaction, change.scene)
    if change.job:
        write_job(transaction, change.job)
    if found.newest and found.fields:
        if change.job:
            write_job(transaction, stamp(found.newest, supersede(found.newest, now), now))
        else:
            transaction.write(JOBS, found.newest.id, found.fields)
