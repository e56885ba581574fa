"""A SQLite file that several processes share: transactions, migrations and what goes wrong."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from shared.embedded.disk import full_disk, is_full
from shared.embedded.schema import MIGRATIONS
from shared.errors import StoreFull, StoreUnavailable, UnknownSchema
from shared.ports import Clock

BUSY_TIMEOUT = timedelta(seconds=10)  # far above a commit's milliseconds, below a client's patience
LOCK_POLL = 0.01

Migration = Sequence[str]  # statements that lead from one version to the next
Result = TypeVar("Result")


class Database:
    """One file, one connection for each thread, every write in a transaction of its own.

    Opening it brings the file to the newest schema; raises StoreUnavailable if it cannot be opened
    and UnknownSchema if a newer illo wrote it. Safe to use from all threads and after a fork.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        migrations: Sequence[Migration] = MIGRATIONS,
        survives_power_cut: bool = True,
        busy_timeout: timedelta = BUSY_TIMEOUT,
    ) -> None:
        self.path = path
        self.clock = clock
        self._migrations = migrations
        self._synchronous = "FULL" if survives_power_cut else "NORMAL"
        self._busy = busy_timeout.total_seconds()
        self._seat = _Seat()
        self._turn = threading.Lock()
        with self.read():
            pass

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Look at one state of the file, whatever others write meanwhile."""
        with self._transaction("BEGIN DEFERRED") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Change the file: all of it when the block ends, nothing if it raises.

        One writer at a time: others wait for the busy timeout, then get StoreUnavailable.
        """
        # Threads of one process queue up here: SQLite itself waits by sleeping, up to 100 ms
        # between two looks, which leaves the file idle while many want to write.
        if not self._turn.acquire(timeout=self._busy):
            raise StoreUnavailable(f"{self.path}: other writers took more than {self._busy:g} s")
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                yield connection
        finally:
            self._turn.release()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._translated():
            connection = self._connection()
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                # SQLite rolls back by itself after some errors, a full disk among them.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if is_full(error, self.path.parent):
                raise StoreFull(full_disk(self.path.parent)) from error
            raise StoreUnavailable(f"{self.path}: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        seat = self._seat
        if seat.connection is not None and seat.owner == os.getpid():
            return seat.connection
        # A connection from before a fork is the parent's: it is neither used nor closed here.
        seat.inherited.append(seat.connection)
        seat.connection, seat.owner = self._connect(), os.getpid()
        return seat.connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._busy, isolation_level=None)
        with ExitStack() as undo:
            undo.callback(connection.close)
            _patiently(lambda: _use_write_ahead_log(connection), self._busy)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._migrate(connection)
            undo.pop_all()
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        newest = len(self._migrations)
        if _version(connection) == newest:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = _version(connection)  # another process may have been quicker
            if version > newest:
                raise UnknownSchema(
                    f"{self.path}: its schema is {version} and this illo reads up to {newest}; "
                    "upgrade illo, or give it another ILLO_DATA"
                )
            for statement in (line for step in self._migrations[version:] for line in step):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {newest}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def micros(instant: datetime) -> int:
    """Write an instant as a column: whole microseconds, so that comparing is exact."""
    return (instant - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def instant(column: int) -> datetime:
    """Read an instant's column."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=column)


class _Seat(threading.local):
    """What one thread has: its connection and the process that opened it."""

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None
        self.owner = 0
        self.inherited: list[sqlite3.Connection | None] = []


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")


def _patiently(act: Callable[[], Result], patience: float) -> Result:
    """Repeat what SQLite refuses at once while others open the file: it waits for no lock here."""
    give_up = time.monotonic() + patience
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(LOCK_POLL)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
