"""The Cloud Storage artifact store beyond the contract: faults on the way, races and links."""

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import google.auth
import pytest
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import compute_engine, crypt
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, TransportError
from google.auth.transport import Request
from google.oauth2 import credentials as users
from google.oauth2 import service_account

from shared.errors import (
    ArtifactDamaged,
    ArtifactError,
    ArtifactExists,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
)
from shared.gcp import artifact_store, signed_links
from shared.gcp.artifact_store import RANGE, CloudArtifactStore
from shared.gcp.signed_links import PAUSE, SignedLinks
from shared.ports import Stored
from tests import strict_storage as storage
from tests.strict_storage import BUCKET, StrictStorage

pytestmark = pytest.mark.slow

NAME = "jobs/job_a/a1/0.png"
SMALL, LARGE = b"bytes " * 1000, b"sixteen bytes, 6" * (9 * 65_536)  # sent at once; resumably
PATIENCE = timedelta(seconds=60)  # of tests that get over a fault
EMAIL = "api@illo.iam.gserviceaccount.com"


@pytest.fixture
def server() -> StrictStorage:
    return StrictStorage()


@pytest.fixture
def url(server: StrictStorage) -> Iterator[str]:
    with storage.strict_storage(server) as url:
        yield url


@pytest.fixture
def store(url: str) -> CloudArtifactStore:
    return CloudArtifactStore(BUCKET, emulator=url, patience=PATIENCE)


def put(store: CloudArtifactStore, data: bytes = SMALL, name: str = NAME) -> Stored:
    return store.put(name, data, content_type="image/png")


def held(server: StrictStorage, name: str = NAME) -> bytes | None:
    there = server.objects.held.get((BUCKET, name))
    return there.data if there else None


def test_an_object_tells_what_it_is(store: CloudArtifactStore, server: StrictStorage) -> None:
    stored = put(store)
    there = server.objects.held[BUCKET, NAME]
    assert there.content_type == "image/png"
    assert there.metadata == {"sha256": stored.sha256}
    assert there.generation == stored.generation


# --- faults on the way --------------------------------------------------------------------------

SENT_ONCE = [
    (SMALL, storage.UPLOAD, storage.BUSY),
    (SMALL, storage.UPLOAD, storage.LOST),
    (SMALL, storage.UPLOAD, storage.GONE),
    (SMALL, storage.UPLOAD, storage.CUT),
    (SMALL, storage.UPLOAD, storage.SLOW),
    (LARGE, storage.BEGIN, storage.BUSY),
    (LARGE, storage.BEGIN, storage.LOST),
    (LARGE, storage.BEGIN, storage.GONE),
    (LARGE, storage.PART, storage.BUSY),
    (LARGE, storage.PART, storage.LOST),
    (LARGE, storage.PART, storage.GONE),
    (LARGE, storage.PART, storage.SLOW),
]


@pytest.mark.parametrize(("data", "at", "fault"), SENT_ONCE, ids=lambda v: str(v)[:40])
@pytest.mark.parametrize("times", [1, 2])
def test_a_put_gets_over_a_fault_and_writes_once(
    url: str,
    server: StrictStorage,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    at: str,
    fault: str,
    times: int,
) -> None:
    if fault == storage.SLOW:
        monkeypatch.setattr(artifact_store, "TIMEOUTS", (5.0, storage.PAUSE / 2))
    store = CloudArtifactStore(BUCKET, emulator=url, patience=PATIENCE)
    server.fail(fault, at=at, times=times)
    stored = put(store, data)
    assert held(server) == data
    assert stored.bytes == len(data)
    assert stored.generation == server.objects.held[BUCKET, NAME].generation
    assert server.seen.count(at) > times
    assert not server.objects.overwritten


@pytest.mark.parametrize(("data", "at"), [(SMALL, storage.UPLOAD), (LARGE, storage.PART)])
def test_bytes_that_arrive_as_others_are_not_kept(
    store: CloudArtifactStore, server: StrictStorage, data: bytes, at: str
) -> None:
    server.fail(storage.FLIPPED, at=at)
    with pytest.raises(ArtifactStoreUnavailable, match=NAME):
        put(store, data)
    assert held(server) is None
    put(store, data)
    assert held(server) == data


READ_ONCE = [
    *((storage.STAT, fault) for fault in (storage.BUSY, storage.GONE, storage.CUT, storage.SLOW)),
    *(
        (storage.DOWNLOAD, fault)
        for fault in (
            storage.BUSY, storage.GONE, storage.RESET, storage.CUT, storage.SHORT,
            storage.FLIPPED, storage.SLOW,
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("at", "fault"), READ_ONCE)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_get_gets_over_a_fault_with_the_right_bytes(
    url: str,
    server: StrictStorage,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    fault: str,
    data: bytes,
) -> None:
    if fault == storage.SLOW:
        monkeypatch.setattr(artifact_store, "TIMEOUTS", (5.0, storage.PAUSE / 2))
    store = CloudArtifactStore(BUCKET, emulator=url, patience=PATIENCE)
    stored = put(store, data)
    server.seen.clear()
    server.fail(fault, at=at)
    assert store.get(NAME, stored.generation) == data
    assert server.seen.count(at) > (1 if at == storage.STAT or data == SMALL else 2)


@pytest.mark.parametrize("fault", [storage.BUSY, storage.LOST, storage.GONE])
def test_a_deletion_gets_over_a_fault(
    store: CloudArtifactStore, server: StrictStorage, fault: str
) -> None:
    put(store)
    server.fail(fault, at=storage.DELETE)
    store.delete(NAME)
    assert held(server) is None
    assert server.seen.count(storage.DELETE) == 2


@pytest.mark.parametrize("fault", [storage.FLIPPED, storage.SHORT])
def test_bytes_that_come_wrong_again_and_again_are_damaged(
    store: CloudArtifactStore, server: StrictStorage, fault: str
) -> None:
    stored = put(store)
    server.fail(fault, at=storage.DOWNLOAD, times=2)
    with pytest.raises(ArtifactDamaged, match=NAME):
        store.get(NAME, stored.generation)
    assert store.get(NAME, stored.generation) == SMALL


def test_an_object_that_went_bad_in_the_bucket_is_damaged(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    stored = put(store)
    there = server.objects.held[BUCKET, NAME]
    server.objects.held[BUCKET, NAME] = replace(there, data=SMALL[::-1])
    with pytest.raises(ArtifactDamaged):
        store.get(NAME, stored.generation)


def test_an_object_of_somebody_else_is_neither_ours_nor_overwritten(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    foreign = server.objects.write(BUCKET, {"name": NAME}, SMALL, {})
    with pytest.raises(ArtifactExists):
        put(store)
    with pytest.raises(ArtifactDamaged):
        store.get(NAME, foreign.generation)
    assert not server.objects.overwritten


Ask = Callable[[CloudArtifactStore], object]
ASKED: dict[str, tuple[Ask, str, str]] = {
    "storage.objects.create": (put, storage.UPLOAD, "roles/storage.objectCreator"),
    "storage.objects.get": (lambda s: s.get(NAME, 1), storage.STAT, "roles/storage.objectViewer"),
    "storage.objects.delete": (
        lambda s: s.delete(NAME),
        storage.DELETE,
        "roles/storage.objectUser",
    ),
}


@pytest.mark.parametrize("permission", ASKED)
def test_what_is_forbidden_names_the_permission_and_the_role(
    store: CloudArtifactStore, server: StrictStorage, permission: str
) -> None:
    ask, at, role = ASKED[permission]
    if at == storage.DELETE:
        put(store)
    server.fail(storage.FORBIDDEN, at=at)
    with pytest.raises(ArtifactStoreUnavailable, match=permission) as refused:
        ask(store)
    assert role in str(refused.value)
    assert BUCKET in str(refused.value)


@pytest.mark.parametrize("permission", ASKED)
def test_a_bucket_that_stays_busy_is_unavailable(
    url: str, server: StrictStorage, permission: str
) -> None:
    impatient = CloudArtifactStore(BUCKET, emulator=url, patience=timedelta(seconds=0.5))
    ask, at, _ = ASKED[permission]
    if at == storage.DELETE:
        put(impatient)
    server.fail(storage.BUSY, at=at, times=1000)
    with pytest.raises(ArtifactStoreUnavailable):
        ask(impatient)
    assert 1 <= server.seen.count(at) < 1000


@pytest.mark.parametrize("permission", ASKED)
def test_a_server_that_is_not_there_is_unavailable(permission: str) -> None:
    with storage.strict_storage() as url:
        pass
    away = CloudArtifactStore(BUCKET, emulator=url, patience=timedelta(seconds=0.5))
    with pytest.raises(ArtifactStoreUnavailable):
        ASKED[permission][0](away)


def test_a_bucket_that_does_not_exist_is_named(url: str) -> None:
    with pytest.raises(ArtifactStoreUnavailable, match=r"ILLO_BUCKET.*no-such-bucket"):
        put(CloudArtifactStore("no-such-bucket", emulator=url))


def test_without_credentials_the_store_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise DefaultCredentialsError("none found")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(google.auth, "default", missing)
    with pytest.raises(ArtifactStoreUnavailable, match="no Google credentials: none found"):
        CloudArtifactStore(BUCKET)


# --- ranges -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "ranges"),
    [(0, 0), (1, 1), (99, 1), (100, 1), (101, 2), (200, 2), (201, 3), (1000, 10)],
)
def test_a_large_object_is_read_in_ranges(
    store: CloudArtifactStore,
    server: StrictStorage,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    ranges: int,
) -> None:
    monkeypatch.setattr(artifact_store, "RANGE", 100)
    data = bytes(number % 251 for number in range(size))
    stored = put(store, data)
    assert store.get(NAME, stored.generation) == data
    assert server.seen.count(storage.DOWNLOAD) == ranges


@pytest.mark.parametrize("size", [RANGE - 1, RANGE, RANGE + 1])
def test_both_sides_of_the_size_that_is_sent_at_once(
    store: CloudArtifactStore, server: StrictStorage, size: int
) -> None:
    data = LARGE[:size]
    stored = put(store, data)
    assert store.get(NAME, stored.generation) == data
    assert (storage.UPLOAD in server.seen) is (size <= RANGE)
    assert (storage.BEGIN in server.seen) is (size > RANGE)


# --- races --------------------------------------------------------------------------------------


def at_once(server: StrictStorage, what: str, count: int) -> None:
    """Let the server act on the first requests of a kind only when so many have come."""
    barrier, number = threading.Barrier(count, timeout=30), iter(range(count))
    lock = threading.Lock()

    def wait(asked: str) -> None:
        if asked == what:
            with lock:
                first = next(number, None)
            if first is not None:
                barrier.wait()

    server.before = wait


@pytest.mark.parametrize(("size", "at"), [(1000, storage.UPLOAD), (RANGE + 1000, storage.PART)])
def test_of_five_writers_one_wins(
    store: CloudArtifactStore, server: StrictStorage, size: int, at: str
) -> None:
    at_once(server, at, 5)

    def write(number: int) -> Stored | None:
        try:
            return put(store, bytes([number]) * size)
        except ArtifactExists:
            return None

    with ThreadPoolExecutor(5) as pool:
        ends = list(pool.map(write, range(5)))
    (winner,) = [number for number, stored in enumerate(ends) if stored]
    assert held(server) == bytes([winner]) * size
    stored = ends[winner]
    assert stored
    assert store.get(NAME, stored.generation) == bytes([winner]) * size
    assert not server.objects.overwritten


def test_five_writers_of_the_same_bytes_have_the_same_artifact(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    at_once(server, storage.UPLOAD, 5)
    with ThreadPoolExecutor(5) as pool:
        stored = set(pool.map(lambda _: put(store), range(5)))
    assert len(stored) == 1
    assert not server.objects.overwritten


def whenever(server: StrictStorage, what: str, act: Callable[[], None], times: int = 1) -> None:
    """Do something just before the server acts on the first requests of a kind."""
    left = iter(range(times))

    def interfere(asked: str) -> None:
        if asked == what and next(left, None) is not None:
            act()

    server.before = interfere


def test_a_name_that_is_freed_between_refusal_and_look_is_written(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    put(store, b"first")
    whenever(server, storage.STAT, lambda: server.objects.held.clear())
    put(store, b"second")
    assert held(server) == b"second"


def test_a_name_that_comes_and_goes_all_the_time_is_unavailable(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    def come_or_go(asked: str) -> None:
        server.objects.held.clear()
        if asked == storage.UPLOAD:
            server.objects.write(BUCKET, {"name": NAME}, b"other", {})

    server.before = come_or_go
    with pytest.raises(ArtifactStoreUnavailable, match="deleted"):
        put(store)


def test_an_object_that_is_deleted_while_it_is_read_is_not_found(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    stored = put(store)
    whenever(server, storage.DOWNLOAD, lambda: server.objects.held.clear())
    with pytest.raises(ArtifactNotFound, match="meanwhile"):
        store.get(NAME, stored.generation)


def test_the_bytes_of_another_generation_are_never_given(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    first = put(store, b"first").generation
    store.delete(NAME)
    second = put(store, b"second").generation
    with pytest.raises(ArtifactNotFound):
        store.get(NAME, first)

    def replaced() -> None:
        server.objects.held.clear()
        server.objects.write(BUCKET, {"name": NAME}, b"third", {})

    whenever(server, storage.DOWNLOAD, replaced)
    with pytest.raises(ArtifactNotFound, match="meanwhile"):
        store.get(NAME, second)


def test_a_deletion_spares_what_was_put_after_it_had_looked(
    store: CloudArtifactStore, server: StrictStorage
) -> None:
    put(store, b"first")

    def replaced() -> None:
        server.objects.held.clear()
        server.objects.write(BUCKET, {"name": NAME}, b"second", {})

    whenever(server, storage.DELETE, replaced)
    store.delete(NAME)
    assert held(server) == b"second"


# --- links --------------------------------------------------------------------------------------

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def with_private_key(key: rsa.RSAPrivateKey = KEY) -> service_account.Credentials:
    signer = crypt.RSASigner.from_string(pem(key))  # type: ignore[no-untyped-call]
    return service_account.Credentials(signer, EMAIL, "https://token.test")  # type: ignore[no-untyped-call]


def on_cloud_run() -> compute_engine.Credentials:
    return compute_engine.Credentials(universe_domain="googleapis.com")  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int
    data: bytes
    headers: Mapping[str, str]


class Googles(Request):
    """In the place of Google's metadata server and IAM: signs with the test's key, or refuses."""

    def __init__(self) -> None:
        self.signed = 0
        self.timeouts: list[float] = []
        self.refusal: Reply | Exception | None = None

    def __call__(self, url: str, *_: Any, **how: Any) -> Reply:
        if "iamcredentials" in url:
            self.timeouts.append(how["timeout"])
            return self._sign(url, json.loads(how["body"]))
        document = {"email": EMAIL, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
        if "token" in url:
            document = {"access_token": "token", "expires_in": 3600}  # type: ignore[dict-item]
        return _json(document, {"Metadata-Flavor": "Google"})

    def _sign(self, url: str, asked: Mapping[str, str]) -> Reply:
        assert url.endswith(f"/serviceAccounts/{EMAIL}:signBlob")
        self.signed += 1
        if isinstance(self.refusal, Exception):
            raise self.refusal
        signer = crypt.RSASigner.from_string(pem(KEY))  # type: ignore[no-untyped-call]
        signature = signer.sign(base64.b64decode(asked["payload"]))
        return self.refusal or _json({"signedBlob": base64.b64encode(signature).decode()})


def _json(document: object, headers: Mapping[str, str] | None = None) -> Reply:
    kind = {"content-type": "application/json", **(headers or {})}
    return Reply(status=200, data=json.dumps(document).encode(), headers=kind)


def linking(url: str, credentials: Any, request: Request | None = None, **how: Any) -> Any:
    links = SignedLinks(credentials, request or Googles(), **how)
    return CloudArtifactStore(BUCKET, emulator=url, links=links)


def fetch(link: str) -> tuple[int, bytes]:
    reply = urllib3.request("GET", link, retries=False)
    return reply.status, reply.data


@pytest.fixture
def trusting(server: StrictStorage) -> StrictStorage:
    server.objects.signers[EMAIL] = KEY.public_key()
    return server


@pytest.mark.parametrize("credentials", [with_private_key, on_cloud_run])
def test_a_link_gives_exactly_this_generation_for_fifteen_minutes(
    url: str, trusting: StrictStorage, credentials: Callable[[], Any]
) -> None:
    store = linking(url, credentials())
    stored = put(store)
    link = store.url(NAME, stored.generation)
    assert fetch(link) == (200, SMALL)
    assert fetch(store.url(NAME, stored.generation + 1))[0] == 404
    stamp = re.search(r"X-Goog-Date=(\w+)", link)
    assert stamp
    made = datetime.strptime(stamp[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    trusting.now = lambda: made + timedelta(minutes=14, seconds=59)
    assert fetch(link)[0] == 200
    trusting.now = lambda: made + timedelta(minutes=15)
    assert fetch(link)[0] == 403


TAMPERED: dict[str, Callable[[str], str]] = {
    "another name": lambda link: link.replace("0.png", "1.png"),
    "another generation": lambda link: link.replace("generation=1", "generation=2"),
    "a longer time": lambda link: link.replace("Expires=900", "Expires=9000"),
    "another signature": lambda link: link[:-1] + ("0" if link[-1] != "0" else "1"),
    "no signature": lambda link: link[: link.index("&X-Goog-Signature")],
    "a parameter more": lambda link: link + "&response-content-type=text%2Fhtml",
    "no link at all": lambda link: link[: link.index("?")],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_link_that_was_tampered_with_gives_nothing(
    url: str, trusting: StrictStorage, how: str
) -> None:
    store = linking(url, with_private_key())
    link = store.url(NAME, put(store).generation)
    tampered = TAMPERED[how](link)
    assert tampered != link
    assert fetch(tampered)[0] == 403
    assert fetch(link)[0] == 200


def test_a_link_signed_with_another_key_gives_nothing(url: str, trusting: StrictStorage) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    store = linking(url, with_private_key(other))
    assert fetch(store.url(NAME, put(store).generation))[0] == 403


@pytest.mark.parametrize("credentials", [AnonymousCredentials(), users.Credentials("token")])  # type: ignore[no-untyped-call]
def test_who_has_no_key_and_no_service_account_makes_no_links(url: str, credentials: Any) -> None:
    store = linking(url, credentials)
    assert store.url(NAME, put(store).generation) is None


REFUSALS: dict[str, Reply | Exception] = {
    "forbidden": Reply(status=403, data=b'{"error": {"status": "PERMISSION_DENIED"}}', headers={}),
    "no signature": _json({}),
    "no JSON": Reply(status=200, data=b"<html>", headers={}),
    "away": TransportError("away"),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("what", REFUSALS)
def test_without_a_signature_there_is_no_link_for_a_while_and_no_error(
    url: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    google, time = Googles(), [0.0]
    store = linking(url, on_cloud_run(), google, now=lambda: time[0])
    generation = put(store).generation
    google.refusal = REFUSALS[what]
    assert [store.url(NAME, generation) for _ in range(3)] == [None] * 3
    assert google.signed == 1
    assert "serviceAccountTokenCreator" in caplog.records[-1].remedy  # type: ignore[attr-defined]
    google.refusal = None
    time[0] = PAUSE - 1
    assert store.url(NAME, generation) is None
    time[0] = PAUSE
    assert store.url(NAME, generation) is not None


def test_iam_is_never_waited_for_without_end(url: str) -> None:
    google = Googles()
    store = linking(url, on_cloud_run(), google)
    store.url(NAME, put(store).generation)
    assert google.timeouts == [signed_links.SECONDS_PER_TRY]


@pytest.mark.parametrize("name", ["../x", "a//b", ".hidden", "a?b", "a b"])
def test_no_link_is_made_for_an_unsafe_name(url: str, name: str) -> None:
    with pytest.raises(ArtifactError):
        linking(url, with_private_key()).url(name, 1)
