"""Who calls: the tenant and the scopes that a request's key stands for."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from werkzeug.datastructures import Headers

from api.key_file import KeyFile
from api.problems import Refusal
from shared.errors import Unauthenticated
from shared.keys import Scope, StoredKey, check_key
from shared.ports import Clock
from shared.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request, and what they may do; without a key there is no id of one."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None


LOCAL = Caller(tenant="local", scopes=frozenset(Scope))  # a service without keys knows no other
ANYBODY = Caller(tenant="", scopes=frozenset())  # of a route that is open to all

# Says who calls from the request's headers and the scope that its route needs, if any. Raises a
# Refusal: 401 without a good key, the same whatever is wrong with it, or 403 without the scope.
Admit = Callable[[Headers, Scope | None], Caller]


def admission(settings: Settings, clock: Clock) -> Admit:
    """Say how callers are admitted: by their keys, or all as the local tenant if there are none.

    Raises BadSettings if the keys cannot be read.
    """
    if settings.keys is None:
        return _admit_local
    return partial(_admit, KeyFile(settings.keys, clock=clock), clock)


def _admit_local(headers: Headers, needed: Scope | None) -> Caller:
    return LOCAL


def _admit(file: KeyFile, clock: Clock, headers: Headers, needed: Scope | None) -> Caller:
    if needed is None:
        return ANYBODY
    try:
        key = check_key(file.current(), _bearer(headers), clock.now())
    except Unauthenticated as error:
        log.info("key refused", extra={"reason": str(error)})
        raise _unauthenticated() from None
    if needed not in key.scopes:
        raise _forbidden(key, needed)
    return Caller(tenant=key.tenant, scopes=frozenset(key.scopes), key_id=key.id)


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _unauthenticated() -> Refusal:
    return Refusal(
        status=401,
        code="unauthenticated",
        detail="send a valid API key, as `Authorization: Bearer illo_…`",
        headers={"WWW-Authenticate": 'Bearer realm="illo"'},
    )


def _forbidden(key: StoredKey, needed: Scope) -> Refusal:
    scope = f'Bearer realm="illo", error="insufficient_scope", scope="{needed}"'
    return Refusal(
        status=403,
        code="insufficient_scope",
        detail=f"this needs a key with the scope {needed}; {key.id} has {', '.join(key.scopes)}",
        headers={"WWW-Authenticate": scope},
    )
