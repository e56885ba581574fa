"""The durable queue of wake-ups, and the publisher that fills it."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from shared.embedded.database import Database, instant, micros
from shared.errors import PublishFailed, StoreError
from shared.messages import Wake, encode_wake
from shared.ports import Clock

_TABLES = (
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        body BLOB NOT NULL,
        attributes TEXT NOT NULL,
        published_at INTEGER NOT NULL,
        due_at INTEGER NOT NULL,
        deliveries INTEGER NOT NULL DEFAULT 0,
        outstanding INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX messages_due ON messages (due_at) WHERE dead = 0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMessage:
    """A message and how often it was delivered."""

    id: int
    body: bytes
    attributes: Mapping[str, str]
    published_at: datetime
    deliveries: int


class QueueFile:
    """Messages that wait for their delivery, in a SQLite file of their own.

    A message that is taken stays: until it is settled, it is due again when its time is over.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        # A killed process loses nothing. What a power cut may take, the last milliseconds of
        # wake-ups, the sweep sends again: that is not worth a wait for the disk at every publish.
        self._database = Database(
            path, clock=clock, migrations=(_TABLES,), survives_power_cut=False
        )

    def add(self, body: bytes, attributes: Mapping[str, str]) -> int:
        """Append a message that is due at once; return its id."""
        now = micros(self._now())
        with self._database.write() as connection:
            added = connection.execute(
                "INSERT INTO messages (body, attributes, published_at, due_at) VALUES (?, ?, ?, ?)",
                (body, json.dumps(dict(attributes)), now, now),
            )
            assert added.lastrowid is not None
            return added.lastrowid

    def any_due(self) -> bool:
        """Say whether taking would find anything, without the lock that taking needs."""
        with self._database.read() as connection:
            select = "SELECT 1 FROM messages WHERE dead = 0 AND due_at <= ? LIMIT 1"
            return connection.execute(select, (micros(self._now()),)).fetchone() is not None

    def take(self, limit: int, *, within: timedelta) -> list[QueuedMessage]:
        """Start a delivery of what is due the longest; unsettled, it is due again `within` this."""
        now = self._now()
        with self._database.write() as connection:
            rows = connection.execute(
                "UPDATE messages SET deliveries = deliveries + 1, outstanding = 1, due_at = ? "
                "WHERE id IN (SELECT id FROM messages WHERE dead = 0 AND due_at <= ? "
                "ORDER BY due_at, id LIMIT ?) "
                "RETURNING id, body, attributes, published_at, deliveries",
                (micros(now + within), micros(now), limit),
            ).fetchall()
        return sorted((_message(row) for row in rows), key=lambda message: message.id)

    def settle(self, id: int) -> None:
        """Forget a message that was acknowledged."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM messages WHERE id = ?", (id,))

    def retry(self, id: int, *, after: timedelta) -> None:
        """Make a message that was refused due again."""
        self._put_back(id, after=after, uncounted=0)

    def untake(self, id: int) -> None:
        """Take back a delivery that reached nobody: the message is due, and it does not count."""
        self._put_back(id, after=timedelta(), uncounted=1)

    def bury(self, id: int) -> None:
        """Deliver a message no more, but keep it to be looked at."""
        with self._database.write() as connection:
            connection.execute("UPDATE messages SET dead = 1, outstanding = 0 WHERE id = ?", (id,))

    def recover(self) -> int:
        """Make due what a dispatcher that died had taken; return how many messages."""
        with self._database.write() as connection:
            return connection.execute(
                "UPDATE messages SET outstanding = 0, due_at = ? WHERE outstanding = 1",
                (micros(self._now()),),
            ).rowcount

    def waiting(self) -> int:
        """Count the messages that are neither settled nor dead."""
        with self._database.read() as connection:
            return _count(connection, "SELECT count(*) FROM messages WHERE dead = 0")

    def dead_letters(self, limit: int = 100) -> list[QueuedMessage]:
        """List the messages that were given up, the latest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT id, body, attributes, published_at, deliveries FROM messages "
                "WHERE dead = 1 ORDER BY id DESC LIMIT ?",
                (limit,),
            )
            return [_message(row) for row in rows]

    def _put_back(self, id: int, *, after: timedelta, uncounted: int) -> None:
        with self._database.write() as connection:
            connection.execute(
                "UPDATE messages SET due_at = ?, outstanding = 0, deliveries = deliveries - ? "
                "WHERE id = ?",
                (micros(self._now() + after), uncounted, id),
            )

    def _now(self) -> datetime:
        return self._database.clock.now()


class SqlitePublisher:
    """See Publisher."""

    def __init__(self, queue: QueueFile) -> None:
        self._queue = queue

    def publish(self, wake: Wake) -> None:
        """See Publisher.publish."""
        try:
            self._queue.add(*encode_wake(wake))
        except StoreError as error:
            raise PublishFailed(f"{wake.job}: the wake-up was not queued: {error}") from error


def _message(row: tuple[int, bytes, str, int, int]) -> QueuedMessage:
    number, body, attributes, published_at, deliveries = row
    return QueuedMessage(
        id=number,
        body=body,
        attributes=json.loads(attributes),
        published_at=instant(published_at),
        deliveries=deliveries,
    )


def _count(connection: sqlite3.Connection, select: str) -> int:
    return int(connection.execute(select).fetchone()[0])
