"""Idempotency-Key: the first answer again, byte for byte, however often the request is sent."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from api.problems import Refusal
from shared.errors import IdempotencyRecorded
from shared.ports import Answer, IdempotencyRecord, IdempotencyStore

KEPT_FOR = timedelta(hours=24)
LONGEST_KEY = 255

Keep = Callable[[Answer, datetime], IdempotencyRecord | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A request that is to be done only once, however often it comes."""

    tenant: str
    path: str
    key_sha256: str
    request_sha256: str


def once_of(key: str | None, *, tenant: str, path: str, document: object) -> Once | None:
    """Read a request's key; raises a Refusal if it is none. Bodies are compared as parsed."""
    if key is None:
        return None
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        detail = f"Idempotency-Key: 1 to {LONGEST_KEY} printable characters"
        raise Refusal(status=400, code="invalid_header", detail=detail)
    return Once(
        tenant=tenant, path=path, key_sha256=_digest(key.encode()), request_sha256=_same(document)
    )


def answer_once(
    once: Once | None, store: IdempotencyStore, act: Callable[[Keep], Answer]
) -> Answer:
    """Give the recorded answer, else act.

    `act(keep)` must write `keep(answer, now)` in the transaction that does what was asked, and let
    IdempotencyRecorded through: then somebody else was first, and that answer is given.
    Raises a Refusal if the key came with another request before.
    """
    if once is None:
        return act(_keep_nothing)
    recorded = store.recall(once.tenant, once.path, once.key_sha256)
    if recorded is None:
        try:
            return act(lambda answer, now: _record(once, answer, now))
        except IdempotencyRecorded as used:
            recorded = cast(IdempotencyRecord, used.record)
    return _replay(once, recorded)


def answer_once_afterwards(
    once: Once | None,
    store: IdempotencyStore,
    now: Callable[[], datetime],
    act: Callable[[], Answer],
) -> Answer:
    """See answer_once, for acts that do the same when they are done twice."""

    def act_and_remember(keep: Keep) -> Answer:
        answer = act()
        remember(keep(answer, now()) if once else None, store)
        return answer

    return answer_once(once, store, act_and_remember)


def remember(record: IdempotencyRecord | None, store: IdempotencyStore) -> None:
    """Keep a record, if there is one, after its act; raises IdempotencyRecorded."""
    if record:
        store.remember(record)


def _keep_nothing(answer: Answer, now: datetime) -> None:
    return None


def _record(once: Once, answer: Answer, now: datetime) -> IdempotencyRecord:
    return IdempotencyRecord(
        tenant=once.tenant,
        path=once.path,
        key_sha256=once.key_sha256,
        request_sha256=once.request_sha256,
        answer=answer,
        expire_at=now + KEPT_FOR,
    )


def _replay(once: Once, recorded: IdempotencyRecord) -> Answer:
    if recorded.request_sha256 != once.request_sha256:
        detail = "this Idempotency-Key came with another request before; use a new key"
        raise Refusal(status=422, code="idempotency_mismatch", detail=detail)
    answer = recorded.answer
    headers = {**answer.headers, "Idempotency-Replayed": "true"}
    return Answer(status=answer.status, headers=headers, body=answer.body)


def _same(document: object) -> str:
    if isinstance(document, bytes):
        return _digest(document)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return _digest(canonical.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
