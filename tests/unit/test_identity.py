"""Who may wake a worker: the one good token, and the many that are not."""

import base64
import hashlib
import hmac
import json
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from shared.embedded.push_keys import (
    TokenSigner,
    make_push_key,
    public_key_path,
    read_public_key,
)
from shared.errors import StoreUnavailable, Unauthenticated, WrongIdentity
from shared.identity import LONGEST_TOKEN, Keys, PushIdentity, verify
from tests.builders import FakeClock

KEY_ID, ISSUER, AUDIENCE, EMAIL = "key-1", "https://issuer", "https://worker/push", "push@illo"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "push-key.pem"
    make_push_key(path)
    return path


@pytest.fixture(scope="module")
def identity(key: Path) -> PushIdentity:
    return PushIdentity(
        issuers=(ISSUER, "https://other-issuer"),
        audience=AUDIENCE,
        email=EMAIL,
        keys=lambda: {KEY_ID: read_public_key(key)},
    )


def claims(**others: object) -> dict[str, object]:
    now = int(time.time())
    good = {
        "iss": ISSUER, "aud": AUDIENCE, "email": EMAIL, "email_verified": True,
        "iat": now, "exp": now + 3600,
    }  # fmt: skip
    return {name: value for name, value in (good | others).items() if value is not None}


def signed(private: bytes, key_id: str | None = KEY_ID, **others: object) -> str:
    signer = crypt.RSASigner.from_string(private, key_id)  # type: ignore[no-untyped-call]
    token: bytes = jwt.encode(signer, claims(**others))  # type: ignore[no-untyped-call]
    return token.decode()


def part(value: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def deep() -> str:
    return base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=")


def unsigned(algorithm: str) -> str:
    return f"{part({'alg': algorithm, 'typ': 'JWT', 'kid': KEY_ID})}.{part(claims())}."


def signed_with_the_public_key(key: Path) -> str:
    """The forgery that works where a verifier takes a public RSA key for an HMAC secret."""
    message = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': KEY_ID})}.{part(claims())}"
    digest = hmac.new(read_public_key(key), message.encode(), hashlib.sha256).digest()
    return f"{message}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def anothers_key() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def with_other_claims(token: str) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{part(claims(sub='somebody else'))}.{signature}"


def without_signature(token: str, instead: str = "SIGNATURE_REMOVED_BY_GOOGLE") -> str:
    return f"{token.rpartition('.')[0]}.{instead}"


Forge = Callable[[Path], str | None]
HOUR = 3600


def good(**others: Any) -> Forge:
    return lambda key: f"Bearer {signed(key.read_bytes(), **others)}"


UNAUTHENTICATED: dict[str, Forge] = {
    "no header": lambda key: None,
    "empty header": lambda key: "",
    "no token": lambda key: "Bearer ",
    "no scheme": lambda key: signed(key.read_bytes()),
    "another scheme": lambda key: f"Basic {signed(key.read_bytes())}",
    "garbage": lambda key: "Bearer garbage",
    "garbage in three parts": lambda key: "Bearer a.b.c",
    "not text": lambda key: "Bearer é.é.é",
    "a header that is no object": lambda key: f"Bearer {part([])}.{part(claims())}.AAAA",  # type: ignore[arg-type]
    "a key id that is no text": lambda key: (
        f"Bearer {part({'alg': 'RS256', 'kid': {}})}.{part(claims())}.AAAA"
    ),
    "a header that is nested without end": lambda key: f"Bearer {deep()}.{part(claims())}.AAAA",
    "claims that are nested without end": lambda key: (
        f"Bearer {part({'alg': 'RS256', 'kid': KEY_ID})}.{deep()}.AAAA"
    ),
    "expired": good(iat=int(time.time()) - 2 * HOUR, exp=int(time.time()) - HOUR),
    "not yet issued": good(iat=int(time.time()) + HOUR, exp=int(time.time()) + 2 * HOUR),
    "no expiry": good(exp=None),
    "no time of issue": good(iat=None),
    "alg none": lambda key: f"Bearer {unsigned('none')}",
    "alg None": lambda key: f"Bearer {unsigned('None')}",
    "RS256 without a signature": lambda key: f"Bearer {unsigned('RS256')}",
    "HS256 with the public key as secret": lambda key: f"Bearer {signed_with_the_public_key(key)}",
    "another key under our id": lambda key: f"Bearer {signed(anothers_key())}",
    "unknown key id": lambda key: f"Bearer {signed(key.read_bytes(), 'key-2')}",
    "no key id": lambda key: f"Bearer {signed(key.read_bytes(), None)}",
    "changed claims": lambda key: f"Bearer {with_other_claims(signed(key.read_bytes()))}",
    "a signature that Cloud Run has removed": lambda key: (
        f"Bearer {without_signature(signed(key.read_bytes()))}"
    ),
    "too long": good(padding="x" * LONGEST_TOKEN),
}
WRONG_IDENTITY: dict[str, Forge] = {
    "another audience": good(aud="https://elsewhere/push"),
    "no audience": good(aud=None),
    "our audience among others": good(aud=[AUDIENCE, "https://elsewhere"]),
    "another issuer": good(iss="https://evil"),
    "no issuer": good(iss=None),
    "another sender": good(email="eve@illo"),
    "no sender": good(email=None),
    "a sender that nobody verified": good(email_verified=False),
    "a sender verified in words": good(email_verified="true"),
    "a sender without a word on it": good(email_verified=None),
}


@pytest.mark.parametrize("what", UNAUTHENTICATED)
def test_a_token_that_cannot_be_trusted_is_refused(
    what: str, key: Path, identity: PushIdentity
) -> None:
    with pytest.raises(Unauthenticated):
        verify(UNAUTHENTICATED[what](key), identity)


@pytest.mark.parametrize("what", WRONG_IDENTITY)
def test_a_good_token_of_somebody_else_is_refused(
    what: str, key: Path, identity: PushIdentity
) -> None:
    with pytest.raises(WrongIdentity):
        verify(WRONG_IDENTITY[what](key), identity)


@pytest.mark.parametrize("issuer", [ISSUER, "https://other-issuer"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_good_token_is_accepted(
    issuer: str, scheme: str, key: Path, identity: PushIdentity
) -> None:
    verify(f"{scheme} {signed(key.read_bytes(), iss=issuer)}", identity)


def with_keys(identity: PushIdentity, keys: Keys) -> PushIdentity:
    return replace(identity, keys=keys)


class Rotating(dict[str, bytes]):
    """Keys that look for a newer one when they are asked for an id that they lack."""

    def __init__(self, newer: Mapping[str, bytes]) -> None:
        super().__init__()
        self.newer = newer
        self.looked: list[object] = []

    def __missing__(self, id: str) -> bytes:
        self.looked.append(id)
        return self.newer[id]


def test_keys_may_look_for_the_one_that_a_token_names(key: Path, identity: PushIdentity) -> None:
    keys = Rotating({KEY_ID: read_public_key(key)})
    verify(f"Bearer {signed(key.read_bytes())}", with_keys(identity, lambda: keys))
    token = signed(key.read_bytes(), "key-2")
    with pytest.raises(Unauthenticated):
        verify(f"Bearer {token}", with_keys(identity, lambda: keys))
    assert keys.looked == [KEY_ID, "key-2"]


@pytest.mark.parametrize("what", ["alg none", "no key id", "a key id that is no text", "garbage"])
def test_no_key_is_looked_for_on_behalf_of_an_obvious_forgery(
    what: str, key: Path, identity: PushIdentity
) -> None:
    keys = Rotating({})
    with pytest.raises(Unauthenticated):
        verify(UNAUTHENTICATED[what](key), with_keys(identity, lambda: keys))
    assert keys.looked == []


def test_without_keys_no_token_is_called_forged(key: Path, identity: PushIdentity) -> None:
    def away() -> dict[str, bytes]:
        raise StoreUnavailable("no keys")

    with pytest.raises(StoreUnavailable):
        verify(f"Bearer {signed(key.read_bytes())}", with_keys(identity, away))
    with pytest.raises(Unauthenticated):
        verify(None, with_keys(identity, away))


def a_signer(key: Path, clock: Any) -> TokenSigner:
    return TokenSigner(
        key.read_bytes(), key_id=KEY_ID, issuer=ISSUER, audience=AUDIENCE, email=EMAIL, clock=clock
    )


def test_the_dispatchers_own_token_is_accepted(key: Path, identity: PushIdentity) -> None:
    verify(f"Bearer {a_signer(key, FakeClock(datetime.now(UTC))).token()}", identity)


def test_a_token_serves_until_shortly_before_it_expires(key: Path) -> None:
    clock = FakeClock()
    signer = a_signer(key, clock)
    first = signer.token()
    clock.advance(timedelta(minutes=55) - timedelta(seconds=1))
    assert signer.token() == first
    clock.advance(timedelta(seconds=1))
    renewed = signer.token()
    assert renewed != first
    times = jwt.decode(renewed, verify=False)  # type: ignore[no-untyped-call]
    assert times["exp"] - times["iat"] == HOUR
    assert times["iat"] == int(clock.now().timestamp())


def test_the_private_key_is_for_its_owner_only_and_never_made_twice(tmp_path: Path) -> None:
    path = tmp_path / "push-key.pem"
    first = make_push_key(path)
    assert make_push_key(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in read_public_key(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["push-key.pem", "push-key.pub.pem"]


def test_the_public_key_is_read_without_the_private_one(tmp_path: Path) -> None:
    path = tmp_path / "push-key.pem"
    make_push_key(path)
    public = read_public_key(path)
    path.unlink()
    assert read_public_key(path) == public


def test_a_public_key_that_was_lost_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "push-key.pem"
    make_push_key(path)
    public = read_public_key(path)
    public_key_path(path).unlink()
    with pytest.raises(StoreUnavailable, match=r"push-key\.pub\.pem"):
        read_public_key(path)
    make_push_key(path)
    assert read_public_key(path) == public
