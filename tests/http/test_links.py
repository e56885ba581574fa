"""Images and assets where the backend serves bytes itself: a link instead of the bytes."""

from dataclasses import replace

import pytest
import urllib3
from cryptography.hazmat.primitives.asymmetric import rsa
from flask.testing import FlaskClient
from google.auth import crypt
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from shared.errors import StoreUnavailable
from shared.gcp.artifact_store import CloudArtifactStore
from shared.gcp.signed_links import SignedLinks
from shared.ports import ArtifactStore, Stored
from tests.http.conftest import House, a_picture, an_upload, drawn
from tests.strict_storage import BUCKET, DOWNLOAD, StrictStorage, strict_storage
from tests.unit.test_cloud_artifacts import EMAIL, pem

ELSEWHERE = "https://bucket.test/"


class Linking:
    """An artifact store that gives a link to everything, and bytes only while it may."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.links = True
        self.streams = True

    def put(self, name: str, data: bytes, *, content_type: str) -> Stored:
        return self._store.put(name, data, content_type=content_type)

    def get(self, name: str, generation: int) -> bytes:
        if not self.streams:
            raise StoreUnavailable("the bytes were asked for although there is a link")
        return self._store.get(name, generation)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def url(self, name: str, generation: int) -> str | None:
        return f"{ELSEWHERE}{name}?generation={generation}" if self.links else None


def over(house: House, artifacts: ArtifactStore) -> House:
    return replace(house, backends=replace(house.backends, artifacts=artifacts))


def paths_of(house: House) -> dict[str, tuple[str, bytes]]:
    """Where a drawn image and an asset are read, and their bytes."""
    job = drawn(house, house.have().id)
    asset = an_upload(house.client, a_picture()).json["id"]
    (image,) = job.images
    stored = house.backends.assets.get("local", asset)
    assert stored
    read = house.backends.artifacts.get
    return {
        "image": (f"/v1/jobs/{job.id}/images/0", read(image.artifact, image.generation)),
        "asset": (f"/v1/assets/{asset}/content", read(stored.artifact, stored.generation)),
    }


WHAT = pytest.mark.parametrize("what", ["image", "asset"])


@WHAT
def test_a_link_is_given_instead_of_the_bytes_and_nobody_keeps_it(house: House, what: str) -> None:
    artifacts = Linking(house.backends.artifacts)
    linked = over(house, artifacts)
    path, _ = paths_of(linked)[what]
    artifacts.streams = False
    answer = linked.client.get(path)
    assert (answer.status_code, answer.data) == (302, b"")
    assert answer.headers["Location"].startswith(ELSEWHERE)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers


@WHAT
def test_without_a_link_the_bytes_are_streamed(house: House, what: str) -> None:
    artifacts = Linking(house.backends.artifacts)
    linked = over(house, artifacts)
    path, content = paths_of(linked)[what]
    artifacts.links = False
    answer = linked.client.get(path)
    assert (answer.status_code, answer.data) == (200, content)
    assert "immutable" in answer.headers["Cache-Control"]


@WHAT
def test_who_has_the_bytes_is_sent_nowhere(house: House, what: str) -> None:
    artifacts = Linking(house.backends.artifacts)
    linked = over(house, artifacts)
    path, _ = paths_of(linked)[what]
    artifacts.links = False
    etag = linked.client.get(path).headers["ETag"]
    artifacts.links = True
    assert linked.client.get(path, headers={"If-None-Match": etag}).status_code == 304


@WHAT
def test_a_link_to_a_bucket_gives_the_bytes_for_fifteen_minutes(house: House, what: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signer = crypt.RSASigner.from_string(pem(key))  # type: ignore[no-untyped-call]
    account = service_account.Credentials(signer, EMAIL, "https://token.test")  # type: ignore[no-untyped-call]
    server = StrictStorage()
    server.objects.signers[EMAIL] = key.public_key()
    with strict_storage(server) as url:
        links = SignedLinks(account, Request())
        linked = over(house, CloudArtifactStore(BUCKET, emulator=url, links=links))
        path, content = paths_of(linked)[what]
        server.seen.clear()
        link = location(linked.client, path)
        assert DOWNLOAD not in server.seen
        reply = urllib3.request("GET", link)
        assert (reply.status, reply.data) == (200, content)
        assert reply.headers["Content-Type"] == "image/png"
        assert "X-Goog-Expires=900" in link


def location(client: FlaskClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 302
    return answer.headers["Location"]
