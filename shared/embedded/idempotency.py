"""Answers to requests with an Idempotency-Key, written in the transaction of what they created."""

import json
import sqlite3
from datetime import datetime

from shared.embedded.database import instant, micros
from shared.errors import IdempotencyRecorded
from shared.ports import Answer, IdempotencyRecord

_SWEPT_AT_ONCE = 100  # expired answers that a write takes along, so that none need a sweep


def read_record(
    connection: sqlite3.Connection, now: datetime, *, tenant: str, path: str, key_sha256: str
) -> IdempotencyRecord | None:
    """Find an answer that has not expired."""
    row = connection.execute(
        "SELECT request_sha256, status, headers, body, expire_at FROM idempotency "
        "WHERE tenant = ? AND path = ? AND key_sha256 = ? AND expire_at > ?",
        (tenant, path, key_sha256, micros(now)),
    ).fetchone()
    if row is None:
        return None
    request_sha256, status, headers, body, expire_at = row
    return IdempotencyRecord(
        tenant=tenant,
        path=path,
        key_sha256=key_sha256,
        request_sha256=request_sha256,
        answer=Answer(status=status, headers=json.loads(headers), body=body),
        expire_at=instant(expire_at),
    )


def write_record(connection: sqlite3.Connection, record: IdempotencyRecord, now: datetime) -> None:
    """Keep an answer; raises IdempotencyRecorded if one that has not expired is there."""
    earlier = read_record(
        connection, now, tenant=record.tenant, path=record.path, key_sha256=record.key_sha256
    )
    if earlier:
        raise IdempotencyRecorded(earlier)
    connection.execute(
        "DELETE FROM idempotency WHERE rowid IN "
        "(SELECT rowid FROM idempotency WHERE expire_at <= ? LIMIT ?)",
        (micros(now), _SWEPT_AT_ONCE),
    )
    connection.execute(
        "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.tenant,
            record.path,
            record.key_sha256,
            record.request_sha256,
            record.answer.status,
            json.dumps(dict(record.answer.headers)),
            record.answer.body,
            micros(record.expire_at),
        ),
    )
