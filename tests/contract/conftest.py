"""The backends that the contract suite runs over: a new one adds a factory to BACKENDS.

Tests ask the store for the time and stay a minute away from every limit, because a backend may have
a clock that nobody can set.
"""

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import urllib3

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

# Not on "emulators", and why: that of Cloud Storage ignores preconditions and generations. All of
# them run on "strict".
OVERWRITES = "a second writer is not refused, but overwrites and gets a generation of its own"
ANY_GENERATION = "whatever generation is asked for, the present one is given"
BEYOND_THE_STORAGE_EMULATOR = {
    "test_the_same_bytes_again_are_the_same_artifact": OVERWRITES,
    "test_a_name_is_written_once": OVERWRITES,
    "test_many_megabytes_come_back_as_they_were_put": OVERWRITES,
    "test_of_five_writers_of_one_name_one_wins": OVERWRITES,
    "test_five_writers_of_the_same_bytes_have_one_artifact": OVERWRITES,
    "test_of_five_writers_with_different_bytes_one_wins": OVERWRITES,
    "test_writers_of_the_same_bytes_make_one_artifact": OVERWRITES,
    "test_another_generation_is_not_found": ANY_GENERATION,
    "test_a_deleted_artifact_is_gone_and_its_name_free": ANY_GENERATION,
}
RACES_OF_ARTIFACTS = frozenset(
    {
        "test_of_five_writers_with_different_bytes_one_wins",
        "test_writers_of_the_same_bytes_make_one_artifact",
    }
)


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        names = places_of(module, metafunc.function.__name__)
        metafunc.parametrize("place", names, indirect=True)


def places_of(module: str, test: str) -> list[str]:
    """Say where a test runs; it is left out where the table has a reason."""
    emulators = [] if test in BEYOND_THE_STORAGE_EMULATOR else ["emulators"]
    strict = ["strict"] if module == "test_artifact_store" or test in RACES_OF_ARTIFACTS else []
    return ["embedded", *emulators, *strict]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with PREPARED[request.param](request, tmp_path):
        yield Place(name=request.param, folder=tmp_path)


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


def open_gcp(folder: Path) -> Backend:
    """Open the Google backends on the emulators that the environment names, at this folder's own
    project, topic and bucket; they are made if they are missing."""
    from deploy.push_identity import LocalIssuer
    from deploy.push_intake import PUSH_PATH, serving
    from deploy.push_relay import PushRelay
    from shared.gcp.artifact_store import CloudArtifactStore
    from shared.gcp.asset_store import FirestoreAssetStore
    from shared.gcp.batch_store import FirestoreBatchStore
    from shared.gcp.delivery import PubSubPublisher
    from shared.gcp.firestore import Firestore
    from shared.gcp.job_store import FirestoreJobStore
    from shared.gcp.topics import make_subscription, push_to, subscription_path, topic_path
    from shared.gcp.worker_store import FirestoreWorkerStore
    from shared.wiring import GOOGLES_ISSUERS

    name, pubsub, storage = (
        _own_name(folder),
        os.environ["PUBSUB_EMULATOR_HOST"],
        os.environ["STORAGE_EMULATOR_HOST"],
    )
    subscription = subscription_path(name, "wake-push")
    make_subscription(pubsub, topic=topic_path(name, "wake"), subscription=subscription)
    _make_bucket(storage, name)
    issuer = LocalIssuer(folder / "push-key.pem", clock=SystemClock())
    sender = {"audience": "https://worker.test/push", "email": "push@illo.test"}
    ack_deadline = timedelta(seconds=0.5)  # the proxy's; the emulator's is ten seconds at least

    @contextmanager
    def pushing(url: str) -> Iterator[None]:
        relay = PushRelay([url], issuer.signer(**sender), ack_deadline=ack_deadline)
        with serving(relay, issuer.certificates()) as proxy:
            push_to(pubsub, subscription=subscription, url=proxy + PUSH_PATH)
            try:
                yield
            finally:
                push_to(pubsub, subscription=subscription, url=None)

    firestore = Firestore(name)
    return Backend(
        jobs=FirestoreJobStore(firestore),
        batches=FirestoreBatchStore(firestore),
        assets=FirestoreAssetStore(firestore),
        workers=FirestoreWorkerStore(firestore),
        artifacts=CloudArtifactStore(name, emulator=storage),
        publisher=PubSubPublisher(name, "wake"),
        identity=PushIdentity(issuers=GOOGLES_ISSUERS, keys=issuer.certificates, **sender),
        pushing=pushing,
        ack_deadline=ack_deadline,
    )


def open_strict(folder: Path) -> Backend:
    """Open what needs no Google service, but with artifacts in a Cloud Storage of our own."""
    from shared.gcp.artifact_store import CloudArtifactStore
    from tests.strict_storage import BUCKET

    artifacts = CloudArtifactStore(BUCKET, emulator=os.environ["STORAGE_EMULATOR_HOST"])
    return replace(open_embedded(folder), artifacts=artifacts)


@contextmanager
def on_this_machine(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    yield


@contextmanager
def on_emulators(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    request.getfixturevalue("emulators")
    yield


@contextmanager
def on_strict_storage(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    from tests.strict_storage import strict_storage

    environment: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    with strict_storage() as url:
        environment.setenv("STORAGE_EMULATOR_HOST", url)
        yield


def _own_name(folder: Path) -> str:
    """Name a project, and a bucket, that no other test has: every program that opens this folder
    finds the same."""
    file, mine = folder / "google-name", f"illo-{secrets.token_hex(10)}"
    written = folder / f".{mine}"
    written.write_text(mine)
    with suppress(FileExistsError):
        os.link(written, file)  # whole or not at all, and by the first only
    written.unlink()
    return file.read_text()


def _make_bucket(storage: str, name: str) -> None:
    made = urllib3.request("POST", f"{storage}/storage/v1/b?project={name}", json={"name": name})
    assert made.status in (200, 409), made.data


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "embedded": open_embedded,
    "emulators": open_gcp,
    "strict": open_strict,
}
PREPARED = {
    "embedded": on_this_machine,
    "emulators": on_emulators,
    "strict": on_strict_storage,
}
