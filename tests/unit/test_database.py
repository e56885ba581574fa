"""The SQLite file under the embedded stores: migrations, waiting, forks and kills."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.embedded.database import Database, instant, micros
from shared.embedded.job_store import SqliteJobStore
from shared.embedded.schema import MIGRATIONS
from shared.errors import StoreFull, StoreUnavailable, UnknownSchema
from shared.jobs import Job
from shared.vocabulary import Status
from tests.builders import NOW, FakeClock, a_job, a_lease, job_id
from tests.builders import seconds as of_seconds

multiprocessing.set_forkserver_preload([__name__])  # or each child would import it

ADD_COLOUR = ("ALTER TABLE workers ADD COLUMN colour TEXT", "UPDATE workers SET colour = 'red'")
BROKEN = ("ALTER TABLE workers ADD COLUMN colour TEXT", "this is not SQL")


def open_file(path: Path, **others: object) -> Database:
    return Database(path, clock=FakeClock(), **others)  # type: ignore[arg-type]


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "illo.sqlite"


class TestMigrations:
    def test_a_file_of_version_1_is_brought_up_with_its_jobs(self, path: Path) -> None:
        job = a_job()
        SqliteJobStore(open_file(path, migrations=MIGRATIONS[:1])).create([job])
        assert version_of(path) == 1
        newer = open_file(path, migrations=(MIGRATIONS[0], ADD_COLOUR))
        assert version_of(path) == 2
        assert SqliteJobStore(newer).get(job.id) == job
        with newer.read() as connection:
            assert connection.execute("SELECT colour FROM workers").fetchall() == []

    def test_a_migration_that_fails_leaves_the_file_as_it_was(self, path: Path) -> None:
        open_file(path, migrations=MIGRATIONS[:1])
        with pytest.raises(StoreUnavailable, match=r"illo\.sqlite"):
            open_file(path, migrations=(MIGRATIONS[0], BROKEN))
        assert version_of(path) == 1
        open_file(path, migrations=(MIGRATIONS[0], ADD_COLOUR))  # the column is not there yet

    def test_a_file_of_a_newer_illo_is_refused_and_left_alone(self, path: Path) -> None:
        open_file(path, migrations=(MIGRATIONS[0], ADD_COLOUR))
        with pytest.raises(UnknownSchema, match=r"illo\.sqlite: its schema is 2 .* up to 1"):
            open_file(path, migrations=MIGRATIONS[:1])
        assert version_of(path) == 2

    def test_processes_that_open_a_new_file_at_once_migrate_it_once(self, path: Path) -> None:
        for attempt in range(5):
            file = path.with_name(f"{attempt}.sqlite")
            assert in_children(5, partial(_open_at_once, file)) == [0] * 5
            assert version_of(file) == 2


def _open_at_once(path: Path, number: int, meet: Barrier) -> None:
    meet.wait(30)
    open_file(path, migrations=(MIGRATIONS[0], ADD_COLOUR))  # twice would fail: duplicate column


def in_children(
    count: int, act: Callable[[int, Barrier], None], *, how: str = "forkserver"
) -> list[int | None]:
    """Run something in children; list how they ended.

    They are forked from a process without threads: what a thread of this one holds, a child of its
    own would wait for in vain.
    """
    context = multiprocessing.get_context(how)
    meet = context.Barrier(count)
    children = [context.Process(target=act, args=(number, meet)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


class TestFaults:
    def test_a_file_that_cannot_be_opened_is_unavailable(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="no-folder"):
            open_file(tmp_path / "no-folder" / "illo.sqlite")

    def test_a_file_that_is_no_database_is_unavailable(self, path: Path) -> None:
        path.write_bytes(b"this is no database" * 1000)
        with pytest.raises(StoreUnavailable, match="not a database"):
            open_file(path)

    def test_a_writer_that_finds_no_way_in_says_so(self, path: Path) -> None:
        jobs = SqliteJobStore(open_file(path, busy_timeout=timedelta(seconds=0.05)))
        job = a_job()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                jobs.create([job])
            assert jobs.counts() == []  # reading goes on meanwhile
            other.execute("ROLLBACK")
        jobs.create([job])

    def test_a_writer_waits_for_another_to_finish(self, path: Path) -> None:
        jobs, job = SqliteJobStore(open_file(path)), a_job()
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.1, lambda: other.execute("ROLLBACK")).start()
            jobs.create([job])
        assert jobs.get(job.id) == job

    def test_a_full_disk_is_unavailable_and_writes_nothing(self, path: Path) -> None:
        database = open_file(path)
        jobs, job = SqliteJobStore(database), a_job(metadata={"large": "x" * 1_000_000})
        with database.read() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        with database.write() as connection:
            connection.execute(f"PRAGMA max_page_count = {pages + 10}")
        with pytest.raises(StoreFull, match=rf"the disk of {path.parent} is full; make room"):
            jobs.create([a_job(), job])
        assert jobs.counts() == []
        jobs.create([a_job()])

    @pytest.mark.parametrize(("free", "full"), [(0, True), (10**9, False)])
    @pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_CANTOPEN])
    def test_a_file_beside_that_finds_no_room_means_a_full_disk(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, code: int, free: int, full: bool
    ) -> None:
        usage = shutil.disk_usage(path.parent)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        with pytest.raises(StoreUnavailable) as told, open_file(path).read():
            raise error
        assert isinstance(told.value, StoreFull) == full

    def test_every_commit_reaches_the_disk(self, path: Path) -> None:
        with open_file(path).read() as connection:
            assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
            assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


class TestProcesses:
    def test_a_forked_child_has_a_connection_of_its_own(self, path: Path) -> None:
        assert in_children(1, partial(_create_in_forks, path)) == [0]
        jobs = SqliteJobStore(open_file(path))
        assert sum(count.jobs for count in jobs.counts()) == 32
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_a_writer_that_is_killed_in_its_transaction_leaves_no_trace(self, path: Path) -> None:
        jobs, job = SqliteJobStore(open_file(path)), a_job()
        jobs.create([job])
        assert in_children(1, partial(_die_in_an_update, path, job.id)) == [-signal.SIGKILL]
        assert jobs.get(job.id) == job
        assert jobs.update(job.id, lambda old, now: a_job(id=job.id)).version == 2


def _create_in_forks(path: Path, number: int, meet: Barrier) -> None:
    """Create a job, ten in each of three forks, and another one behind them."""
    database = open_file(path)
    jobs = SqliteJobStore(database)
    jobs.create([a_job()])
    with database.read() as connection:
        parents = connection

    def create_ten(number: int, meet: Barrier) -> None:
        with database.read() as connection:
            assert connection is not parents
        meet.wait(30)
        for turn in range(10):
            jobs.create([a_job(id=job_id((number, turn)))])

    assert in_children(3, create_ten, how="fork") == [0, 0, 0]
    jobs.create([a_job()])


def _die_in_an_update(path: Path, id: str, number: int, meet: Barrier) -> None:
    def die(stored: Job, now: datetime) -> Job:
        os.kill(os.getpid(), signal.SIGKILL)
        return stored

    SqliteJobStore(open_file(path)).update(id, die)


class TestTime:
    @given(st.datetimes(timezones=st.just(UTC)))
    def test_a_column_holds_an_instant_exactly(self, moment: datetime) -> None:
        assert instant(micros(moment)) == moment

    def test_limits_are_exact_on_both_sides(self, path: Path) -> None:
        clock, tick = FakeClock(), timedelta(microseconds=1)
        jobs = SqliteJobStore(Database(path, clock=clock))
        due = a_job(not_before=NOW + of_seconds(1), wake_at=NOW + of_seconds(1))
        leased = a_job(status=Status.RUNNING, lease=a_lease(expires_at=NOW + of_seconds(10)))
        jobs.create([due, leased])
        clock.advance(of_seconds(1) - tick)
        assert (jobs.claimable(per_tenant=1), jobs.wakeable(1)) == ([], [])
        clock.advance(tick)
        assert (jobs.claimable(per_tenant=1), jobs.wakeable(1)) == ([due], [due])
        clock.advance(of_seconds(9))
        assert jobs.silent(1) == []
        clock.advance(tick)
        assert jobs.silent(1) == [leased]
        clock.advance(of_seconds(5) - tick)  # the grace before a lease can be stolen
        assert jobs.claimable(per_tenant=1) == [due]
        clock.advance(tick)
        assert jobs.claimable(per_tenant=1) == [due, leased]
