"""The app over the real embedded backends, with a clock and a publisher that tests steer."""

import io
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from api.app import create_app
from shared.embedded.artifact_store import FileArtifactStore
from shared.embedded.asset_store import SqliteAssetStore
from shared.embedded.batch_store import SqliteBatchStore
from shared.embedded.database import Database
from shared.embedded.job_store import SqliteJobStore
from shared.embedded.worker_store import SqliteWorkerStore
from shared.errors import PublishFailed, StoreUnavailable
from shared.jobs import Job, claim, succeed
from shared.keys import Scope, StoredKey, new_key, write_keys
from shared.messages import Wake
from shared.settings import Settings
from shared.vocabulary import Metrics
from shared.wiring import Backends
from tests.builders import NOW, TERMS, WEIGHTS, FakeClock, a_job, an_image, seconds

LOCAL = "local"


class SteeredPublisher:
    """Keeps what was published, or fails while a test says so."""

    def __init__(self) -> None:
        self.wakes: list[Wake] = []
        self.down = False

    def publish(self, wake: Wake) -> None:
        if self.down:
            raise PublishFailed("the queue is down")
        self.wakes.append(wake)


class Away:
    """A store that cannot be reached."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def unreachable(*_: object, **__: object) -> None:
            raise StoreUnavailable("the store is away")

        return unreachable


@dataclass(frozen=True, kw_only=True)
class House:
    """An app and what it stands on."""

    backends: Backends
    settings: Settings
    clock: FakeClock
    publisher: SteeredPublisher

    @property
    def client(self) -> FlaskClient:
        """A caller on this machine."""
        return self.client_over(self.backends)

    def client_over(self, backends: Backends) -> FlaskClient:
        return create_app(backends, self.settings, WEIGHTS).test_client()

    def have(self, **what_matters: Any) -> Job:
        """A job that is stored already."""
        job = a_job(**{"tenant": LOCAL} | what_matters)
        self.backends.jobs.create([job])
        return job

    def with_settings(self, **changes: Any) -> "House":
        return replace(self, settings=self.settings.model_copy(update=changes))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return a_house(tmp_path)


@pytest.fixture
def client(house: House) -> Iterator[FlaskClient]:
    with house.client as client:
        yield client


@dataclass(frozen=True, kw_only=True)
class KeyedHouse(House):
    """A house with keys, by what they are: see `keys_of_ada_and_bob`."""

    keys: Mapping[str, str]

    def caller(self, name: str) -> FlaskClient:
        """A caller with one of the keys."""
        return with_key(self.client, self.keys[name])


@pytest.fixture
def keyed(tmp_path: Path) -> KeyedHouse:
    return a_keyed_house(tmp_path)


def a_keyed_house(folder: Path) -> KeyedHouse:
    house = a_house(folder)
    keys, text = keys_of_ada_and_bob()
    return KeyedHouse(
        backends=house.backends,
        settings=house.settings.model_copy(update={"keys": text}),
        clock=house.clock,
        publisher=house.publisher,
        keys=keys,
    )


def with_key(client: FlaskClient, key: str) -> FlaskClient:
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
    return client


def a_key(tenant: str = "ada", *scopes: Scope, **what_matters: Any) -> tuple[str, StoredKey]:
    """A key that was made a day before NOW, with all scopes unless some are given."""
    key, stored = new_key(
        tenant,
        scopes or tuple(Scope),
        NOW - seconds(86_400),
        expires_at=None,
        random=secrets.token_bytes,
    )
    return key, replace(stored, **what_matters)


def keys_of_ada_and_bob() -> tuple[dict[str, str], str]:
    """Good and bad keys by what they are, and the text of a key file that knows the good ones."""
    known = {
        "ada": a_key("ada"),
        "ada's reader": a_key("ada", Scope.READ),
        "bob": a_key("bob"),
        "bob's writer": a_key("bob", Scope.READ, Scope.WRITE),
        "revoked": a_key("ada", revoked_at=NOW - seconds(1)),
        "expired": a_key("ada", expires_at=NOW),
    }
    unknown, _ = a_key("ada")
    id_of_ada = known["ada"][0].rpartition("_")[0]
    wrong = {"unknown": unknown, "wrong": f"{id_of_ada}_{unknown.rpartition('_')[2]}"}
    return {name: key for name, (key, _) in known.items()} | wrong, write_keys(
        stored for _, stored in known.values()
    )


def a_house(folder: Path) -> House:
    clock = FakeClock()
    database = Database(folder / "illo.sqlite", clock=clock, survives_power_cut=False)
    publisher = SteeredPublisher()
    backends = Backends(
        jobs=SqliteJobStore(database),
        batches=SqliteBatchStore(database),
        assets=SqliteAssetStore(database),
        workers=SqliteWorkerStore(database),
        artifacts=FileArtifactStore(folder / "artifacts"),
        publisher=publisher,
        clock=clock,
    )
    settings = Settings.model_validate({"data": folder})
    return House(backends=backends, settings=settings, clock=clock, publisher=publisher)


def a_picture(
    size: tuple[int, int] = (96, 64), *, colour: str = "tomato", format: str = "PNG"
) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def an_upload(client: FlaskClient, picture: bytes, **headers: str) -> Any:
    form = {"file": (io.BytesIO(picture), "mia.png")}
    return client.post("/v1/assets", data=form, headers=headers)


def pointers(response: Any) -> list[str]:
    return [fault["pointer"] for fault in response.json["errors"]]


def claimed(house: House, id: str) -> Job:
    """What a worker does first."""
    return house.backends.jobs.update(id, partial(claim, holder="worker-1", terms=TERMS))


def drawn(house: House, id: str, *, gpu_seconds: float = 2.0) -> Job:
    """What a worker does last."""
    job = claimed(house, id)
    assert job.lease
    content = a_picture((job.scene.width, job.scene.height))
    name = f"jobs/{id}/a{job.attempt}/0.png"
    stored = house.backends.artifacts.put(name, content, content_type="image/png")
    image = an_image(
        job,
        artifact=name,
        generation=stored.generation,
        sha256=stored.sha256,
        bytes=stored.bytes,
    )
    change = partial(
        succeed,
        lease=job.lease,
        images=(image,),
        metrics=Metrics(gpu_seconds=gpu_seconds),
        terms=TERMS,
    )
    return house.backends.jobs.update(id, change)
