"""What workers tell and the operator's switch, in SQLite."""

import sqlite3
from collections.abc import Callable
from datetime import datetime

from shared.documents import from_json, to_json
from shared.embedded.database import Database, micros
from shared.workers import QueueControl, WorkerRecord

KEPT = 50


class SqliteWorkerStore:
    """See WorkerStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, record: WorkerRecord) -> None:
        """See WorkerStore.save."""
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO workers (id, document, started_at, at) VALUES (?, ?, ?, ?)",
                (record.id, to_json(record), micros(record.started_at), micros(record.at)),
            )
            # By the last word, not the start: fifty failed starts must not hide a steady worker.
            connection.execute(
                "DELETE FROM workers WHERE id IN "
                "(SELECT id FROM workers ORDER BY at DESC, id LIMIT -1 OFFSET ?)",
                (KEPT,),
            )

    def records(self) -> list[WorkerRecord]:
        """See WorkerStore.records."""
        select = "SELECT document FROM workers ORDER BY started_at DESC, id"
        with self._database.read() as connection:
            rows = connection.execute(select)
            return [from_json(WorkerRecord, document) for (document,) in rows]

    def control(self) -> QueueControl:
        """See WorkerStore.control."""
        with self._database.read() as connection:
            return _read_control(connection)

    def update_control(
        self, change: Callable[[QueueControl, datetime], QueueControl]
    ) -> QueueControl:
        """See WorkerStore.update_control."""
        with self._database.write() as connection:
            before = _read_control(connection)
            after = change(before, self.now())
            if after is not before:
                connection.execute(
                    "INSERT OR REPLACE INTO control (id, document) VALUES (1, ?)",
                    (to_json(after),),
                )
        return after

    def now(self) -> datetime:
        """See WorkerStore.now."""
        return self._database.clock.now()


def _read_control(connection: sqlite3.Connection) -> QueueControl:
    row = connection.execute("SELECT document FROM control").fetchone()
    return QueueControl() if row is None else from_json(QueueControl, row[0])
