"""Verify the identity token of a push or another call of Google's: who sent it, and to whom.

The rules are those for Google's OIDC tokens. Any Google account can have a token made for any
audience, so the sender's email is compared as well:
https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions

Cloud Run's front may have verified a signature before, and removed it: see
docs/decisions/0012-signatures-that-cloud-run-removes.md.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.auth import exceptions, jwt

from shared.errors import Unauthenticated, WrongIdentity

LONGEST_TOKEN = 16_384
ALGORITHMS = ("RS256", "ES256")
# A token as Cloud Run's front hands it on: this, to the letter, stands in the signature's place.
REMOVED = re.compile(r"[\w-]+\.[\w-]+\.SIGNATURE_REMOVED_BY_GOOGLE", re.ASCII)
# What google-auth lets through of a token that somebody made up, beside its own errors.
UNREADABLE = (
    exceptions.GoogleAuthError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Key id -> PEM of a certificate or public key. Called at every push; the backend may cache, and
# its mapping may look for newer keys when `[]` asks for an id that is not among them.
# Raises StoreUnavailable while there are none to judge by.
Keys = Callable[[], Mapping[str, str | bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushIdentity:
    """Whose pushes, or calls, are accepted.

    `signatures_removed`: Cloud Run's front has verified whoever comes, nobody comes past it, and a
    token without its signature is believed for that. Whatever has a signature is verified here.
    """

    issuers: tuple[str, ...]
    audience: str
    email: str
    keys: Keys
    signatures_removed: bool = False


def verify(
    authorization: str | None, identity: PushIdentity, *, serverless: str | None = None
) -> None:
    """Accept an Authorization header, or raise Unauthenticated or WrongIdentity.

    Unauthenticated: no bearer token, unreadable, another algorithm, unknown key, wrong signature,
    or out of date. WrongIdentity: a good token, but of another issuer, audience or sender. What
    the keys raise comes through.

    `serverless` is the X-Serverless-Authorization of the same request. Where there is one, Cloud
    Run's front verifies it alone, and Authorization comes as somebody wrote it.
    """
    token = _bearer(authorization)
    removed = identity.signatures_removed and serverless is None and REMOVED.fullmatch(token)
    claims = _unsigned_claims(token) if removed else _verified_claims(token, identity.keys())
    if claims.get("iss") not in identity.issuers:
        raise WrongIdentity("the token's issuer is none that is trusted here")
    if claims.get("aud") != identity.audience:
        raise WrongIdentity("the token is meant for another audience")
    if claims.get("email") != identity.email or claims.get("email_verified") is not True:
        raise WrongIdentity("the token is of an account that may not do this")


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("send `Authorization: Bearer <identity token>`")
    if len(token) > LONGEST_TOKEN:
        raise Unauthenticated(f"the token is longer than {LONGEST_TOKEN} characters")
    return token.strip()


def _verified_claims(token: str, keys: Mapping[str, str | bytes]) -> Mapping[str, object]:
    with _trusting_nothing():
        id = _key_id(token)
        # The audience is compared by the caller: google-auth would pass over a missing one.
        claims: Mapping[str, object] = jwt.decode(token, certs={id: keys[id]})  # type: ignore[no-untyped-call]
    return claims


def _unsigned_claims(token: str) -> Mapping[str, object]:
    """Hold a token without a signature against all that one with it is held against."""
    with _trusting_nothing():
        _key_id(token)
        claims: Mapping[str, Any] = jwt.decode(token, verify=False)  # type: ignore[no-untyped-call]
        if not claims["iat"] <= int(time.time()) <= claims["exp"]:
            raise ValueError("out of date")
    return claims


def _key_id(token: str) -> str:
    header = jwt.decode_header(token)  # type: ignore[no-untyped-call]
    id = header.get("kid")
    if header.get("alg") not in ALGORITHMS or not isinstance(id, str):
        raise Unauthenticated("the token is not signed with a key that could be known here")
    return id


@contextmanager
def _trusting_nothing() -> Iterator[None]:
    try:
        yield
    except UNREADABLE:
        raise Unauthenticated("the token cannot be trusted: malformed, forged or expired") from None
