"""Uploading, reading and deleting images to draw from."""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.scene_input import pin
from api.sweep import sweep_once
from api.upload import LARGEST_FILE
from shared.errors import ArtifactNotFound, StoreUnavailable
from shared.pictures import MAX_BYTES
from shared.vocabulary import Status
from tests.builders import NOW, a_reference, a_scene
from tests.http.conftest import House, a_picture, an_upload, pointers


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_an_upload_is_stored_as_png_under_its_contents_name(house: House, format: str) -> None:
    answer = an_upload(house.client, a_picture((96, 64), format=format))
    asset = answer.json
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/assets/{asset['id']}"
    assert (asset["object"], asset["width"], asset["height"]) == ("asset", 96, 64)
    assert asset["content_type"] == "image/png"
    assert asset["expires_at"] == "2026-03-31T12:00:00Z"
    content = house.client.get(f"/v1/assets/{asset['id']}/content")
    assert content.headers["Content-Type"] == "image/png"
    assert len(content.data) == asset["bytes"]
    assert Image.open(io.BytesIO(content.data)).size == (96, 64)
    assert content.headers["ETag"] == f'"{asset["sha256"]}"'


def test_the_same_picture_again_is_the_same_asset_and_lives_longer(house: House) -> None:
    first = an_upload(house.client, a_picture())
    house.clock.advance(timedelta(days=1))
    again = an_upload(house.client, a_picture())
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json == first.json | {"expires_at": "2026-04-01T12:00:00Z"}
    assert len(house.client.get("/v1/assets").json["data"]) == 1


def test_metadata_of_a_picture_is_not_kept(house: House) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif, comment=b"taken at home")
    asset = an_upload(house.client, file.getvalue()).json
    assert b"home" not in house.client.get(f"/v1/assets/{asset['id']}/content").data


@pytest.mark.parametrize("file", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_a_file_that_is_no_picture_is_refused(house: House, file: bytes) -> None:
    answer = an_upload(house.client, file)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_image")
    assert pointers(answer) == ["/file"]


def test_the_file_is_at_most_what_the_reader_of_pictures_takes(house: House) -> None:
    assert LARGEST_FILE == MAX_BYTES
    picture = a_picture()
    largest = picture + bytes(LARGEST_FILE - len(picture))
    assert an_upload(house.client, largest).status_code == 201
    answer = an_upload(house.client, largest + b"x")
    assert (answer.status_code, answer.json["code"]) == (413, "too_large")
    assert an_upload(house.client, largest + bytes(100_000)).status_code == 413


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        ({}, ["/file"]),
        ({"file": "text"}, ["/file"]),
        ({"picture": (io.BytesIO(b"x"), "x.png")}, ["/picture"]),
        ({"file": (io.BytesIO(b"x"), "x.png"), "name": "Mia"}, ["/name"]),
        ({"file": [(io.BytesIO(b"x"), "x"), (io.BytesIO(b"y"), "y")]}, ["/file"]),
    ],
)
def test_a_form_of_other_parts_is_refused(house: House, form: Any, wrong: list[str]) -> None:
    kind = "multipart/form-data"
    answer = house.client.post("/v1/assets", data=form, content_type=kind)
    assert (answer.status_code, pointers(answer)) == (422, wrong)


@pytest.mark.parametrize(
    "kind",
    ["image/png", "application/json", "multipart/form-data", "multipart/form-data; boundary="],
)
def test_a_body_that_is_no_form_is_refused(house: House, kind: str) -> None:
    answer = house.client.post("/v1/assets", data=a_picture(), content_type=kind)
    assert answer.status_code in (415, 422)


def test_assets_are_listed_newest_first_in_pages(house: House) -> None:
    made = []
    for colour in ("red", "green", "blue"):
        made.append(an_upload(house.client, a_picture(colour=colour)).json["id"])
        house.clock.advance(1)
    first = house.client.get("/v1/assets?limit=2")
    assert [asset["id"] for asset in first.json["data"]] == made[:0:-1]
    path = first.headers["Link"].removeprefix("<").partition(">")[0]
    assert [asset["id"] for asset in house.client.get(path).json["data"]] == made[:1]


@pytest.mark.parametrize("id", ["ast_" + "0" * 64, "x", "%00"])
def test_an_unknown_asset_is_not_found(house: House, id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert house.client.open(f"/v1/assets/{id}{path}", method=method).status_code == 404


def test_a_deleted_asset_is_gone_and_can_be_sent_again(house: House) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    stored = house.backends.assets.get("local", id)
    assert stored
    assert house.client.delete(f"/v1/assets/{id}").status_code == 204
    assert house.client.get(f"/v1/assets/{id}").status_code == 404
    assert not house.backends.assets.find("local", limit=1).items
    again = an_upload(house.client, a_picture())
    assert (again.status_code, again.json["id"]) == (201, id)
    assert house.client.get(f"/v1/assets/{id}/content").status_code == 200


def test_bytes_that_another_tenant_has_too_are_kept(house: House) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    mine = house.backends.assets.get("local", id)
    assert mine
    house.backends.assets.save(replace(mine, id="ast_theirs", tenant="ada"))
    assert house.client.delete(f"/v1/assets/{id}").status_code == 204
    assert house.backends.artifacts.get(mine.artifact, mine.generation)


def test_an_asset_that_an_unfinished_job_needs_is_not_deleted(house: House) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    scene = a_scene(references=(a_reference(asset=id),))
    house.have(status=Status.FAILED, scene=scene)
    job = house.have(scene=scene)
    answer = house.client.delete(f"/v1/assets/{id}")
    assert (answer.status_code, answer.json["code"]) == (409, "asset_in_use")
    house.client.post(f"/v1/jobs/{job.id}/cancel")
    assert house.client.delete(f"/v1/assets/{id}").status_code == 204


def test_an_asset_that_a_batch_needs_is_not_deleted(house: House) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    house.backends.assets.keep("local", id, until=None)
    answer = house.client.delete(f"/v1/assets/{id}")
    assert (answer.status_code, answer.json["code"]) == (409, "asset_in_use")
    assert house.client.get(f"/v1/assets/{id}/content").status_code == 200


class Interrupting:
    """A store in which something else happens right before one call goes through, once."""

    def __init__(self, store: Any, name: str, first: Callable[[], object]) -> None:
        self._store, self._name, self._first = store, name, first

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            self._name = ""
            self._first()
        return getattr(self._store, name)


def swept(house: House, **stores: Any) -> int:
    return sweep_once(replace(house.backends, **stores), house.settings).uploads


def drawable(house: House, id: str) -> bool:
    """Whether a job that names an asset now would find its bytes."""
    asset = house.backends.assets.get("local", id)
    assert asset
    return bool(house.backends.artifacts.get(asset.artifact, asset.generation))


def test_the_bytes_of_a_deleted_asset_go_after_an_hour_unless_a_job_needs_them(
    house: House,
) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    stored = house.backends.assets.get("local", id)
    assert stored
    house.client.delete(f"/v1/assets/{id}")
    job = house.have(scene=a_scene(references=(pin(stored),)), wake_at=NOW + timedelta(days=9))
    house.clock.advance(timedelta(hours=1))
    assert swept(house) == 0
    house.client.post(f"/v1/jobs/{job.id}/cancel")
    house.clock.advance(timedelta(days=1) - timedelta(seconds=1))
    assert swept(house) == 0
    house.clock.advance(1)
    assert swept(house) == 1
    with pytest.raises(ArtifactNotFound):
        house.backends.artifacts.get(stored.artifact, stored.generation)


def test_a_job_that_was_accepted_while_its_asset_was_deleted_finds_its_bytes(house: House) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    jobs = Interrupting(
        house.backends.jobs, "create", lambda: house.client.delete(f"/v1/assets/{id}")
    )
    client = house.client_over(replace(house.backends, jobs=jobs))
    answer = client.post("/v1/jobs", json={"prompt": "Mia", "references": [id]})
    assert answer.status_code == 202
    assert house.client.get(f"/v1/assets/{id}").status_code == 404
    house.clock.advance(timedelta(hours=2))
    assert swept(house) == 0
    [pinned] = house.backends.jobs.get(answer.json["id"]).scene.references
    assert house.backends.artifacts.get(pinned.artifact, pinned.generation)


def test_a_job_whose_asset_is_removed_before_it_is_kept_is_refused(house: House) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    house.clock.advance(house.settings.retention)
    assets = Interrupting(house.backends.assets, "keep", lambda: swept(house))
    client = house.client_over(replace(house.backends, assets=assets))
    answer = client.post("/v1/jobs", json={"prompt": "Mia", "references": [id]})
    assert (answer.status_code, answer.json["code"]) == (409, "reference_deleted")
    assert house.client.get("/v1/jobs").json["data"] == []


@pytest.mark.parametrize(
    ("store", "call"), [("jobs", "needs_asset"), ("assets", "remove"), ("artifacts", "delete")]
)
def test_a_picture_that_is_sent_again_while_it_is_removed_has_its_bytes(
    house: House, store: str, call: str
) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    house.client.delete(f"/v1/assets/{id}")
    house.clock.advance(timedelta(hours=2))
    again = Interrupting(
        getattr(house.backends, store), call, lambda: an_upload(house.client, a_picture())
    )
    swept(house, **{store: again})
    assert drawable(house, id)


@pytest.mark.parametrize("call", ["recall", "get", "save"])
def test_a_picture_that_is_removed_or_deleted_while_it_is_sent_again_has_its_bytes(
    house: House, call: str
) -> None:
    id = an_upload(house.client, a_picture()).json["id"]
    house.client.delete(f"/v1/assets/{id}")
    house.clock.advance(timedelta(hours=2))
    assets = Interrupting(house.backends.assets, call, lambda: swept(house))
    client = house.client_over(replace(house.backends, assets=assets))
    assert an_upload(client, a_picture()).status_code == 201
    assert drawable(house, id)


def test_of_two_uploads_of_a_picture_at_once_one_is_stored(house: House) -> None:
    assets = Interrupting(
        house.backends.assets, "save", lambda: an_upload(house.client, a_picture())
    )
    client = house.client_over(replace(house.backends, assets=assets))
    answer = an_upload(client, a_picture())
    assert answer.status_code == 200
    assert drawable(house, answer.json["id"])
    assert len(list((house.settings.data / "artifacts").rglob("*.png"))) == 1


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"rotten")])
def test_an_upload_heals_an_asset_whose_bytes_are_gone_or_damaged(
    house: House, harm: Callable[[Path], object]
) -> None:
    first = an_upload(house.client, a_picture()).json
    [stored] = (house.settings.data / "artifacts").rglob("*.png")
    harm(stored)
    again = an_upload(house.client, a_picture())
    assert (again.status_code, again.json) == (200, first)
    assert drawable(house, first["id"])


def test_an_upload_that_waits_too_long_for_others_is_told_to_come_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(file: bytes) -> None:
        raise StoreUnavailable("other pictures are being read")

    monkeypatch.setattr("shared.pictures.normalise", busy)
    answer = an_upload(house.client, a_picture())
    assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_an_artifact_store_that_is_away_is_a_503(house: House) -> None:
    from shared.errors import ArtifactStoreUnavailable

    class AwayArtifacts:
        def put(self, *_: object, **__: object) -> None:
            raise ArtifactStoreUnavailable("away")

    away = replace(house.backends, artifacts=AwayArtifacts())  # type: ignore[arg-type]
    answer = an_upload(house.client_over(away), a_picture())
    assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
    assert house.client.get("/v1/assets").json["data"] == []
