"""Google's certificates: fetched seldom, by one thread, kept while their source is away."""

import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from shared.errors import BadSettings, StoreUnavailable, Unauthenticated
from shared.gcp.certificates import (
    LONGEST,
    MOST_BYTES,
    MOST_KEYS,
    PAUSE,
    SHORTEST,
    STILL_GOOD,
    UNSAID,
    Certificates,
)
from shared.identity import PushIdentity, verify
from tests.unit.test_identity import AUDIENCE, EMAIL, ISSUER, signed

HOUR = 3600.0
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@dataclass
class Source:
    """Where certificates come from, as a test wants it to answer."""

    body: bytes = json.dumps({"a": PEM}).encode()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Cache-Control": "max-age=3600"})
    hang_up: bool = False
    asked: int = 0
    before: Callable[[], None] = lambda: None
    url: str = ""

    def redirect(self) -> None:
        self.status = 302
        self.headers["Location"] = self.url + "/elsewhere"

    def give(self, *ids: str) -> None:
        self.body = json.dumps(dict.fromkeys(ids, PEM)).encode()


@contextmanager
def serving(source: Source) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source.asked += 1
            source.before()
            if source.hang_up:
                return
            self.send_response(source.status)
            for name, value in {"Content-Length": str(len(source.body)), **source.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(source.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    source.url = f"http://127.0.0.1:{server.server_port}/certs"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    with serving(source):
        yield source


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def certificates(source: Source, clock: Clock) -> Certificates:
    return Certificates(source.url, now=clock)


def test_nothing_is_fetched_before_it_is_needed(source: Source, certificates: Certificates) -> None:
    assert source.asked == 0
    assert certificates() == {"a": PEM}
    assert source.asked == 1


@pytest.mark.parametrize(
    ("said", "lasts"),
    [
        ("public, max-age=21600, must-revalidate, no-transform", 21_600),
        ("max-age=0", SHORTEST),
        ("no-store", UNSAID),
        ("", UNSAID),
        ("max-age=99999999", LONGEST),
        ("max-age=1e9", UNSAID),
        ("max-age=" + "9" * 5000, UNSAID),
    ],
)
def test_an_answer_serves_as_long_as_it_says_within_bounds(
    source: Source, certificates: Certificates, clock: Clock, said: str, lasts: float
) -> None:
    source.headers = {"Cache-Control": said}
    began = clock.seconds
    certificates()
    source.give("b")
    clock.seconds = began + lasts - 1
    assert "a" in certificates()
    assert source.asked == 1
    clock.seconds = began + lasts
    assert certificates() == {"b": PEM}
    assert source.asked == 2


def test_an_unknown_id_is_looked_for_once_in_a_while(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    known = certificates()
    source.give("a", "b")
    with pytest.raises(KeyError):
        known["b"]
    assert source.asked == 1
    clock.seconds += PAUSE
    assert certificates()["b"] == PEM
    assert source.asked == 2
    for _ in range(10):
        with pytest.raises(KeyError):
            certificates()["c"]
    assert source.asked == 2
    clock.seconds += PAUSE
    for _ in range(10):
        with pytest.raises(KeyError):
            certificates()["c"]
    assert source.asked == 3


def test_a_certificate_that_was_withdrawn_goes_when_the_answer_is_old(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    certificates()
    source.give("b")
    clock.seconds += HOUR
    with pytest.raises(KeyError):
        certificates()["a"]


BAD_ANSWERS: dict[str, Callable[[Source], None]] = {
    "away": lambda s: setattr(s, "hang_up", True),
    "an error": lambda s: setattr(s, "status", 503),
    "a redirect": lambda s: s.redirect(),
    "no JSON": lambda s: setattr(s, "body", b"<html>"),
    "not UTF-8": lambda s: setattr(s, "body", b'{"a": "\xff"}'),
    "nested without end": lambda s: setattr(s, "body", b"[" * 60_000),
    "no object": lambda s: setattr(s, "body", b"[]"),
    "nothing": lambda s: setattr(s, "body", b"{}"),
    "no text": lambda s: setattr(s, "body", b'{"b": 1}'),
    "no certificate": lambda s: setattr(s, "body", b'{"b": "x"}'),
    "too many": lambda s: s.give(*map(str, range(MOST_KEYS + 1))),
    "too long": lambda s: setattr(s, "body", s.body.ljust(MOST_BYTES + 1)),
    "cut short": lambda s: s.headers.update({"Content-Length": "9999"}),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_a_bad_answer_changes_nothing_and_without_another_there_is_none(
    source: Source, certificates: Certificates, clock: Clock, what: str
) -> None:
    good = source.body, source.status, dict(source.headers), source.hang_up
    BAD_ANSWERS[what](source)
    with pytest.raises(StoreUnavailable, match="/certs"):
        certificates()
    source.body, source.status, source.headers, source.hang_up = good
    clock.seconds += PAUSE
    assert certificates() == {"a": PEM}
    BAD_ANSWERS[what](source)
    clock.seconds += HOUR
    assert certificates() == {"a": PEM}


def test_a_redirect_is_not_followed(source: Source, certificates: Certificates) -> None:
    source.redirect()
    with pytest.raises(StoreUnavailable):
        certificates()
    assert source.asked == 1


def test_the_largest_answer_is_still_read(source: Source, certificates: Certificates) -> None:
    source.give(*map(str, range(MOST_KEYS)))
    source.body = source.body.ljust(MOST_BYTES)
    assert len(certificates()) == MOST_KEYS


def test_without_its_source_an_answer_stays_good_for_a_day_and_no_longer(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    certificates()
    source.hang_up = True
    clock.seconds += HOUR + STILL_GOOD - 1
    assert certificates()["a"] == PEM
    clock.seconds += 1
    with pytest.raises(StoreUnavailable):
        certificates()


def test_a_source_that_is_away_is_not_asked_at_every_push(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    source.hang_up = True
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            certificates()
    assert source.asked == 1
    clock.seconds += PAUSE
    with pytest.raises(StoreUnavailable):
        certificates()
    assert source.asked == 2


def test_five_threads_wait_for_the_first_answer_and_fetch_it_once(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    barrier = threading.Barrier(5, timeout=30)

    def take_long() -> None:
        time.sleep(0.2)  # so that the others come to wait
        clock.seconds += PAUSE

    source.before = take_long

    def ask(_: int) -> object:
        barrier.wait()
        return certificates()

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(ask, range(5))) == [{"a": PEM}] * 5
    assert source.asked == 1


def test_who_has_certificates_does_not_wait_for_the_thread_that_renews_them(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    certificates()
    arrived, answered = threading.Event(), threading.Event()

    def wait() -> None:
        arrived.set()
        assert answered.wait(30)

    source.before = wait
    source.give("b")
    clock.seconds += HOUR
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(certificates)
        try:
            assert arrived.wait(30)
            assert certificates() == {"a": PEM}
        finally:
            answered.set()
        assert renewing.result(30) == {"b": PEM}
    assert source.asked == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://www.googleapis.com/oauth2/v1/certs",
        "http://localhost.evil.test/certs",
        "http://10.0.0.1/certs",
        "ftp://127.0.0.1/certs",
        "file:///etc/passwd",
        "certs",
        "",
    ],
)
def test_only_https_is_trusted_beyond_this_machine(url: str) -> None:
    with pytest.raises(BadSettings, match="ILLO_CERTIFICATES"):
        Certificates(url)


@pytest.mark.parametrize(
    "url", ["https://www.googleapis.com/oauth2/v1/certs", "http://localhost:1/", "http://[::1]/x"]
)
def test_https_and_this_machine_are_trusted(url: str) -> None:
    Certificates(url)


# --- with the tokens of pushes ------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    private: bytes
    certificate: str


def a_pair() -> Pair:
    """A key and its certificate, as Google publishes them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federated-signon.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Pair(private, certificate.public_bytes(serialization.Encoding.PEM).decode())


def test_tokens_are_verified_across_a_change_of_keys(
    source: Source, certificates: Certificates, clock: Clock
) -> None:
    identity = PushIdentity(issuers=(ISSUER,), audience=AUDIENCE, email=EMAIL, keys=certificates)
    old, new = a_pair(), a_pair()
    source.body = json.dumps({"old": old.certificate}).encode()
    verify(f"Bearer {signed(old.private, 'old')}", identity)
    source.body = json.dumps({"old": old.certificate, "new": new.certificate}).encode()
    clock.seconds += PAUSE
    verify(f"Bearer {signed(new.private, 'new')}", identity)
    verify(f"Bearer {signed(old.private, 'old')}", identity)
    with pytest.raises(Unauthenticated):
        verify(f"Bearer {signed(new.private, 'old')}", identity)
    assert source.asked == 2


def test_without_any_certificates_a_token_is_neither_good_nor_bad(
    source: Source, certificates: Certificates
) -> None:
    identity = PushIdentity(issuers=(ISSUER,), audience=AUDIENCE, email=EMAIL, keys=certificates)
    source.hang_up = True
    with pytest.raises(StoreUnavailable):
        verify(f"Bearer {signed(a_pair().private, 'a')}", identity)


@pytest.mark.parametrize("id", [None, {}, ["a"], 1])
def test_a_key_id_that_is_no_text_makes_nobody_look(
    source: Source, certificates: Certificates, clock: Clock, id: object
) -> None:
    identity = PushIdentity(issuers=(ISSUER,), audience=AUDIENCE, email=EMAIL, keys=certificates)
    certificates()
    clock.seconds += PAUSE
    with pytest.raises(Unauthenticated):
        verify(f"Bearer {signed(a_pair().private, id)}", identity)  # type: ignore[arg-type]
    assert source.asked == 1
