"""The backends that the contract suite runs over: a new one adds a factory to BACKENDS.

Tests ask the store for the time and stay a minute away from every limit, because a backend may have
a clock that nobody can set.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.embedded.artifact_store import FileArtifactStore
from shared.embedded.asset_store import SqliteAssetStore
from shared.embedded.batch_store import SqliteBatchStore
from shared.embedded.database import Database
from shared.embedded.delivery import QueueFile, SqlitePublisher
from shared.embedded.dispatcher import Dispatcher
from shared.embedded.job_store import SqliteJobStore
from shared.embedded.push_keys import TokenSigner, make_push_key, read_public_key
from shared.embedded.worker_store import SqliteWorkerStore
from shared.identity import PushIdentity
from shared.ports import (
    ArtifactStore,
    AssetStore,
    BatchStore,
    JobStore,
    Publisher,
    WorkerStore,
)
from tests.builders import FakeClock


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Everything that a backend provides, opened on one place."""

    jobs: JobStore
    batches: BatchStore
    assets: AssetStore
    workers: WorkerStore
    artifacts: ArtifactStore
    publisher: Publisher
    identity: PushIdentity
    pushing: Callable[[str], AbstractContextManager[None]]  # to this URL, while it is open
    ack_deadline: timedelta  # the shortest that this backend can do

    @property
    def now(self) -> datetime:
        return self.workers.now()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a backend keeps things; another process opens the same one with it."""

    name: str
    folder: Path

    def open(self) -> Backend:
        return BACKENDS[self.name](self.folder)


@pytest.fixture(params=["embedded"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(name=request.param, folder=tmp_path)


@pytest.fixture
def backend(place: Place) -> Backend:
    return place.open()


def open_embedded(folder: Path) -> Backend:
    database = Database(folder / "illo.sqlite", clock=FakeClock())
    queue = QueueFile(folder / "queue.sqlite", clock=SystemClock())
    key = folder / "push-key.pem"
    claims = {
        "issuer": "https://queue.test",
        "audience": "https://worker.test/push",
        "email": "push@queue.test",
    }
    ack_deadline = timedelta(seconds=0.5)

    @contextmanager
    def pushing(url: str) -> Iterator[None]:
        signer = TokenSigner(make_push_key(key), key_id="test", clock=SystemClock(), **claims)
        dispatcher = Dispatcher(queue, [url], signer, ack_deadline=ack_deadline, window=4)
        stop = threading.Event()
        thread = threading.Thread(target=dispatcher.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    return Backend(
        jobs=SqliteJobStore(database),
        batches=SqliteBatchStore(database),
        assets=SqliteAssetStore(database),
        workers=SqliteWorkerStore(database),
        artifacts=FileArtifactStore(folder / "artifacts"),
        publisher=SqlitePublisher(queue),
        identity=PushIdentity(
            issuers=(claims["issuer"],),
            audience=claims["audience"],
            email=claims["email"],
            keys=lambda: {"test": read_public_key(key)},
        ),
        pushing=pushing,
        ack_deadline=ack_deadline,
    )


BACKENDS: dict[str, Callable[[Path], Backend]] = {"embedded": open_embedded}
