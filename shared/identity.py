"""Verify the identity token of a push: who sent it, and that it was meant for this worker.

The rules are those for Google's OIDC tokens. Any Google account can have a token made for any
audience, so the sender's email is compared as well:
https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.auth import exceptions, jwt

from shared.errors import Unauthenticated, WrongIdentity

LONGEST_TOKEN = 16_384
ALGORITHMS = ("RS256", "ES256")
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

# Key id -> PEM of a certificate or public key. Called at every push; the backend may cache.
Keys = Callable[[], Mapping[str, str | bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushIdentity:
    """Whose pushes are accepted."""

    issuers: tuple[str, ...]
    audience: str
    email: str
    keys: Keys


def verify(authorization: str | None, identity: PushIdentity) -> None:
    """Accept a push's Authorization header, or raise Unauthenticated or WrongIdentity.

    Unauthenticated: no bearer token, unreadable, another algorithm, unknown key, wrong signature,
    or out of date. WrongIdentity: a good token, but of another issuer, audience or sender.
    """
    token = _bearer(authorization)
    claims = _claims(token, identity.keys())
    if claims.get("iss") not in identity.issuers:
        raise WrongIdentity("the token's issuer is not the one that pushes here")
    if claims.get("aud") != identity.audience:
        raise WrongIdentity("the token is meant for another audience")
    if claims.get("email") != identity.email or claims.get("email_verified") is not True:
        raise WrongIdentity("the token's sender is not the push identity")


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("a push needs `Authorization: Bearer <identity token>`")
    if len(token) > LONGEST_TOKEN:
        raise Unauthenticated(f"the token is longer than {LONGEST_TOKEN} characters")
    return token.strip()


def _claims(token: str, keys: Mapping[str, str | bytes]) -> Mapping[str, object]:
    try:
        header = jwt.decode_header(token)  # type: ignore[no-untyped-call]
        if header.get("alg") not in ALGORITHMS or header.get("kid") not in keys:
            raise Unauthenticated("the token is not signed with a key that is known here")
        # The audience is compared by the caller: google-auth would pass over a missing one.
        claims: Mapping[str, object] = jwt.decode(token, certs=dict(keys))  # type: ignore[no-untyped-call]
    except UNREADABLE:
        raise Unauthenticated("the token cannot be trusted: malformed, forged or expired") from None
    return claims
