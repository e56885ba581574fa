"""Weights that lie in a bucket: drawn with as those of a folder are, and refused as they are."""

from pathlib import Path

import pytest

from shared.manifest import read_manifest
from tests.ranged_server import FLIPPED, FOLDER, RESET, Fault, objects_of, ranged_server
from tests.service import Service, running
from worker.pipeline.tiny import make_tiny_weights

pytestmark = pytest.mark.slow

WISH = {"prompt": "a fox in the snow", "width": 64, "height": 64, "steps": 2, "seed": 7}
AT = 400_000  # in the middle of the transformer


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("weights") / "tiny"
    make_tiny_weights(folder)
    return folder


def drawn(service: Service) -> bytes:
    job = service.ended(service.post("/v1/jobs", WISH)["id"])
    assert job["status"] == "succeeded", job
    return service.image(job)


def test_a_bucket_draws_the_same_picture_as_a_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "here", "--weights", str(weights)) as service:
        expected = drawn(service)
    faults = (Fault(RESET, at=AT),)
    with ranged_server(objects_of(weights), faults=faults) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        with running(tmp_path / "there", "--weights", FOLDER) as service:
            assert drawn(service) == expected
            [worker] = service.get("/v1/workers")["data"]
        assert server.happened == [RESET]
    assert worker["weights"]["sha256"] == read_manifest(weights).sha256


def test_damaged_bytes_are_never_drawn_with_and_the_queue_says_why(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = (Fault(FLIPPED, at=AT, times=3),)
    with ranged_server(objects_of(weights), faults=faults) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        with running(tmp_path / "data", "--weights", FOLDER, sweep_seconds="0.5") as service:
            job = service.post("/v1/jobs", WISH)["id"]
            waiting = service.until(
                lambda: service.get(f"/v1/jobs/{job}"),
                lambda seen: "what came has the crc32c" in (seen["queue"]["reason"] or ""),
                120,
            )
    assert waiting["attempt"] == 0
