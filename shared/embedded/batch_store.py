"""Batches and their scenes in SQLite."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from shared.batches import (
    MOST_ADDED,
    MOST_CHANGED,
    Batch,
    BatchScene,
    SceneChange,
    groups,
    refuse_more_than,
    settled,
    stamp_batch,
)
from shared.documents import from_json, to_json
from shared.embedded.database import Database, micros
from shared.embedded.idempotency import write_record
from shared.embedded.job_rows import add_job, insert_job, read_jobs, write_job
from shared.embedded.usage import charged
from shared.errors import BatchNotFound, SceneNotFound
from shared.jobs import Job, stamp, supersede
from shared.ports import BatchChange, IdempotencyRecord, SceneRule
from shared.quotas import Quota, Usage


class SqliteBatchStore:
    """See BatchStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        batch: Batch,
        *,
        record: IdempotencyRecord | None = None,
        quota: Quota | None = None,
    ) -> Usage | None:
        """See BatchStore.create."""
        with self._database.write() as connection:
            now = self._now()
            if record:
                write_record(connection, record, now)
            usage = charged(connection, quota, batch.tenant, batch.scene_count, now)
            connection.execute(
                "INSERT INTO batches (id, document, tenant, created_at, settled) "
                "VALUES (?, ?, ?, ?, ?)",
                (batch.id, to_json(batch), batch.tenant, micros(batch.created_at), settled(batch)),
            )
        return usage

    def get(self, id: str) -> Batch:
        """See BatchStore.get."""
        with self._database.read() as connection:
            return _read_batch(connection, id)

    def update(self, id: str, change: BatchChange) -> Batch:
        """See BatchStore.update."""
        with self._database.write() as connection:
            before, now = _read_batch(connection, id), self._now()
            after = change(before, now)
            if after is before:
                return before
            stored = stamp_batch(before, after, now)
            connection.execute(
                "UPDATE batches SET document = ?, settled = ? WHERE id = ?",
                (to_json(stored), settled(stored), id),
            )
        return stored

    def unfinished(self, limit: int) -> list[Batch]:
        """See BatchStore.unfinished."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT document FROM batches WHERE settled = 0 ORDER BY created_at, id LIMIT ?",
                (limit,),
            )
            return [from_json(Batch, document) for (document,) in rows]

    def add_scenes(self, scenes: Sequence[BatchScene], jobs: Sequence[Job]) -> None:
        """See BatchStore.add_scenes."""
        refuse_more_than(MOST_ADDED, len(scenes), "scenes")
        refuse_more_than(MOST_ADDED, len(jobs), "jobs")
        with self._database.write() as connection:
            connection.executemany(
                "INSERT INTO scenes (batch, key, position, document) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (batch, key) DO NOTHING",
                [(scene.batch, scene.key, scene.position, to_json(scene)) for scene in scenes],
            )
            for job in jobs:
                add_job(connection, job)

    def scene(self, batch: str, key: str) -> BatchScene:
        """See BatchStore.scene."""
        with self._database.read() as connection:
            return _read_scene(connection, batch, key)

    def scenes_by_key(self, batch: str, keys: Sequence[str]) -> dict[str, BatchScene]:
        """See BatchStore.scenes_by_key."""
        select = (
            "SELECT document FROM scenes WHERE batch = ? "
            "AND key IN (SELECT value FROM json_each(?))"
        )
        found = dict[str, BatchScene]()
        for group in groups(keys):
            with self._database.read() as connection:
                rows = connection.execute(select, (batch, json.dumps(group)))
                scenes = [from_json(BatchScene, document) for (document,) in rows]
            found |= {scene.key: scene for scene in scenes}
        return found

    def scenes(self, batch: str, *, after: int = -1, limit: int = 200) -> list[BatchScene]:
        """See BatchStore.scenes."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT document FROM scenes WHERE batch = ? AND position > ? "
                "ORDER BY position LIMIT ?",
                (batch, after, limit),
            )
            return [from_json(BatchScene, document) for (document,) in rows]

    def update_scenes(
        self,
        batch: str,
        keys: Sequence[str],
        rule: SceneRule,
        *,
        quota: Quota | None = None,
    ) -> list[SceneChange]:
        """See BatchStore.update_scenes."""
        refuse_more_than(MOST_CHANGED, len(keys), "scenes")
        with self._database.write() as connection:
            now = self._now()
            scenes = [_read_scene(connection, batch, key) for key in dict.fromkeys(keys)]
            found = [(scene, _job_of_take(connection, scene)) for scene in scenes]
            wanted = [(rule(scene, newest, now), newest) for scene, newest in found]
            changes = [change for change, _ in wanted if change]
            _charge_takes(connection, quota, changes, now)
            for change, newest in wanted:
                if change:
                    _write_change(connection, change, newest, now)
        return changes

    def _now(self) -> datetime:
        return self._database.clock.now()


def _charge_takes(
    connection: sqlite3.Connection,
    quota: Quota | None,
    changes: Sequence[SceneChange],
    now: datetime,
) -> None:
    jobs = [change.job for change in changes if change.job]
    if jobs:
        charged(connection, quota, jobs[0].tenant, len(jobs), now)


def _write_change(
    connection: sqlite3.Connection, change: SceneChange, newest: Job | None, now: datetime
) -> None:
    scene = change.scene
    if change.job:
        insert_job(connection, change.job)
        if newest:
            write_job(connection, stamp(newest, supersede(newest, now), now))
    connection.execute(
        "UPDATE scenes SET document = ?, position = ? WHERE batch = ? AND key = ?",
        (to_json(scene), scene.position, scene.batch, scene.key),
    )


def _job_of_take(connection: sqlite3.Connection, scene: BatchScene) -> Job | None:
    rows = connection.execute(
        "SELECT document FROM jobs WHERE batch = ? AND scene_key = ? AND take = ?",
        (scene.batch, scene.key, scene.last_take),
    )
    return next(iter(read_jobs(rows)), None)


def _read_batch(connection: sqlite3.Connection, id: str) -> Batch:
    row = connection.execute("SELECT document FROM batches WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise BatchNotFound(f"{id}: there is no such batch")
    return from_json(Batch, row[0])


def _read_scene(connection: sqlite3.Connection, batch: str, key: str) -> BatchScene:
    row = connection.execute(
        "SELECT document FROM scenes WHERE batch = ? AND key = ?", (batch, key)
    ).fetchone()
    if row is None:
        raise SceneNotFound(f"{batch} has no scene {key!r}")
    return from_json(BatchScene, row[0])
