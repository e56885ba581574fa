"""API keys: how one is made and checked, and what is kept of them. Pure.

A key is `illo_<id>_<secret>`, and only the SHA-256 of the whole is kept. Slow and salted hashes are
for passwords, which people choose and others guess; 160 random bits cannot be guessed at any speed.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from hmac import compare_digest
from typing import Annotated

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import BadSettings, Unauthenticated

ACTIVE_PER_TENANT = 2  # one is in use while the next is handed out
LARGEST_FILE = 1_000_000  # bytes; about 3,000 keys
ID_BYTES, SECRET_BYTES = 5, 20  # both without a rest in base32

_KEY = re.compile(r"illo_([a-z2-7]{8})_[a-z2-7]{32}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NOBODYS_KEY = f"illo_{'a' * 8}_{'a' * 32}"
_NOBODYS_SHA256 = "0" * 64  # nothing that has it will be found


class Scope(StrEnum):
    """What a key may be used for; none of them includes another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class KeyState(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """What is kept of a key: whose it is, what it may do and its hash."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z2-7]{8}$")]
    tenant: Annotated[str, Field(pattern=rf"^{_TENANT.pattern}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def state(self, now: datetime) -> KeyState:
        """Say whether it opens anything at an instant."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    __pydantic_config__ = ConfigDict(extra="forbid")

    keys: tuple[StoredKey, ...]


Keys = Mapping[str, StoredKey]  # by id, in the order in which they were made


def is_tenant(name: str) -> bool:
    """Whether a tenant may have this name."""
    return _TENANT.fullmatch(name) is not None


def is_key(text: str) -> bool:
    """Whether a text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def new_key(
    tenant: str,
    scopes: Sequence[Scope],
    now: datetime,
    *,
    expires_at: datetime | None,
    random: Callable[[int], bytes],
) -> tuple[str, StoredKey]:
    """Make a key, and what is kept of it. `random` gives so many bytes that nobody can foresee."""
    id, secret = (_text(random(size)) for size in (ID_BYTES, SECRET_BYTES))
    key = f"illo_{id}_{secret}"
    stored = StoredKey(
        id=id,
        tenant=tenant,
        sha256=_digest(key),
        scopes=tuple(scopes),
        created_at=now,
        expires_at=expires_at,
    )
    return key, stored


def check_key(keys: Keys, given: str | None, now: datetime) -> StoredKey:
    """Find the key that was given; raises Unauthenticated, with what is wrong for the log.

    The same is computed for every key, known or not: the time taken tells nobody which ids exist.
    """
    form = _KEY.fullmatch(given or "")
    key = form[0] if form else _NOBODYS_KEY
    stored = keys.get(form[1]) if form else None
    same = compare_digest(_digest(key), stored.sha256 if stored else _NOBODYS_SHA256)
    if stored is None or not same:
        raise Unauthenticated(f"no key {form[1]} with this secret" if form else "not a key")
    state = stored.state(now)
    if state is not KeyState.ACTIVE:
        raise Unauthenticated(f"key {stored.id} is {state}")
    return stored


def add_key(keys: Keys, new: StoredKey, now: datetime) -> Keys:
    """Add a key; raises BadSettings if its tenant has as many as it may."""
    added = {**keys, new.id: new}
    if faults := _crowded(added.values(), now):
        raise BadSettings("\n".join(faults))
    return added


def revoke_key(keys: Keys, id: str, now: datetime) -> Keys:
    """End a key for good; one that was revoked before stays so. Raises BadSettings."""
    stored = keys.get(id)
    if stored is None:
        raise BadSettings(f"there is no key {id!r}; `illo keys list` shows those that there are")
    return {**keys, id: replace(stored, revoked_at=stored.revoked_at or now)}


def read_keys(text: str, now: datetime) -> Keys:
    """Read a key file's text; raises BadSettings with every fault, and nothing of any key."""
    try:
        json.loads(text, object_pairs_hook=_once_each)
        found = _DOCUMENT.validate_json(text, strict=True).keys
    except ValidationError as error:
        faults = [f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise BadSettings(_hushed("\n".join(faults))) from None
    except (ValueError, RecursionError) as error:
        raise BadSettings(_hushed(f"not JSON that can be read: {error}")) from None
    faults = [*_twice(found), *_crowded(found, now)]
    if faults:
        raise BadSettings("\n".join(faults))
    return {key.id: key for key in found}


def write_keys(keys: Iterable[StoredKey]) -> str:
    """Write the text of a key file."""
    return json.dumps({"keys": [entry_of(key) for key in keys]}, indent=1) + "\n"


def entry_of(key: StoredKey) -> dict[str, object]:
    """Write what is kept of a key as its entry in a key file."""
    instants = (key.created_at, key.expires_at, key.revoked_at)
    created, expires, revoked = (at.isoformat() if at else None for at in instants)
    ends = {"created_at": created, "expires_at": expires, "revoked_at": revoked}
    return {**asdict(key), "scopes": [scope.value for scope in key.scopes], **ends}


def _crowded(keys: Iterable[StoredKey], now: datetime) -> list[str]:
    active: dict[str, list[str]] = {}
    for key in keys:
        if key.state(now) is KeyState.ACTIVE:
            active.setdefault(key.tenant, []).append(key.id)
    return [
        f"tenant {tenant!r} would have {len(ids)} active keys, {', '.join(ids)}: "
        f"{ACTIVE_PER_TENANT} are the most; revoke one with `illo keys revoke`"
        for tenant, ids in active.items()
        if len(ids) > ACTIVE_PER_TENANT
    ]


def _twice(keys: Sequence[StoredKey]) -> list[str]:
    listed = Counter(key.id for key in keys)
    return [f"key {id} is listed {times} times" for id, times in listed.items() if times > 1]


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # read as the last one, a second `revoked_at` would quietly undo the first
    named = dict[str, object]()
    for name, value in pairs:
        if name in named:
            raise ValueError(f"an object has the member {name[:64]!r} twice")
        named[name] = value
    return named


def _place(location: tuple[str | int, ...]) -> str:
    return "/" + "/".join(str(part) for part in location)


def _hushed(text: str) -> str:
    """Leave out keys that somebody wrote where their hashes belong."""
    return _KEY.sub("illo_…", text)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _text(random: bytes) -> str:
    return base64.b32encode(random).decode().lower()


_DOCUMENT = TypeAdapter(_Document)
