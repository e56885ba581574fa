"""Batches for tests of their routes: submitting them, and drawing their jobs as workers would."""

from functools import partial
from typing import Any

from flask.testing import FlaskClient

from api.sweep import sweep_once
from shared.jobs import Job, claim, fail, succeed
from shared.vocabulary import ErrorCode, Failure, Metrics
from tests.builders import TERMS, an_image
from tests.http.conftest import House

SMALL = {"width": 64, "height": 64, "steps": 2}
BATCHES = "/v1/batches"
OUT_OF_MEMORY = Failure(code=ErrorCode.OUT_OF_MEMORY, message="no room")


def scenes_of(*keys: str) -> list[dict[str, Any]]:
    return [{"key": key, "prompt": f"Scene {key}"} for key in keys]


def submit(client: FlaskClient, *keys: str, headers: Any = None, **body: Any) -> Any:
    usual = {"defaults": SMALL, "scenes": scenes_of(*(keys or ("p1", "p2", "p3")))}
    return client.post(BATCHES, json=usual | body, headers=headers)


def submitted(client: FlaskClient, *keys: str, **body: Any) -> str:
    """Submit a batch; return its path."""
    answer = submit(client, *keys, **body)
    assert answer.status_code == 202, answer.json
    return str(answer.headers["Location"])


def expand_all(house: House) -> None:
    while sweep_once(house.backends, house.settings).unfinished:
        pass


def start(house: House, id: str) -> Job:
    return house.backends.jobs.update(id, partial(claim, holder="w", terms=TERMS))


def draw(house: House, id: str, image: bytes = b"picture") -> Job:
    """Let a worker claim a job and succeed."""
    job = start(house, id)
    name = f"jobs/{id}/a{job.attempt}/0.png"
    put = house.backends.artifacts.put(name, image, content_type="image/png")
    drawn = an_image(
        job, artifact=name, generation=put.generation, sha256=put.sha256, bytes=put.bytes
    )
    assert job.lease
    done = partial(
        succeed, lease=job.lease, images=(drawn,), metrics=Metrics(gpu_seconds=2), terms=TERMS
    )
    return house.backends.jobs.update(id, done)


def spoil(house: House, id: str) -> Job:
    """Let a worker claim a job and fail."""
    job = start(house, id)
    assert job.lease
    failed = partial(
        fail, lease=job.lease, error=OUT_OF_MEMORY, metrics=Metrics(), jitter=0, terms=TERMS
    )
    return house.backends.jobs.update(id, failed)


def newest_job(client: FlaskClient, batch: str, key: str) -> str:
    return str(client.get(f"{batch}/scenes/{key}").json["newest"]["job"])


def draw_scenes(house: House, client: FlaskClient, batch: str, *keys: str) -> None:
    for key in keys:
        draw(house, newest_job(client, batch, key))
