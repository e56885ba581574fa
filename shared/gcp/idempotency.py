"""Answers to requests with an Idempotency-Key, written in the transaction of what they created."""

import hashlib
import json
from datetime import datetime

from shared.errors import IdempotencyRecorded
from shared.gcp.firestore import Fields
from shared.gcp.shapes import ANSWERS
from shared.gcp.transactions import Transaction
from shared.ports import Answer, IdempotencyRecord


def write_record(transaction: Transaction, record: IdempotencyRecord) -> None:
    """Keep an answer; raises IdempotencyRecorded if one that has not expired is there."""
    name = name_of(record.tenant, record.path, record.key_sha256)
    earlier = transaction.get(ANSWERS, name)
    standing = record_of(earlier, transaction.now)
    if standing:
        raise IdempotencyRecorded(standing)
    transaction.write(ANSWERS, name, _fields_of(record))


def record_of(fields: Fields | None, now: datetime) -> IdempotencyRecord | None:
    """Read a record that has not expired; Firestore itself removes them within a day only."""
    if fields is None or fields["expire_at"] <= now:
        return None
    return IdempotencyRecord(
        tenant=fields["tenant"],
        path=fields["path"],
        key_sha256=fields["key_sha256"],
        request_sha256=fields["request_sha256"],
        answer=Answer(
            status=fields["status"],
            headers=json.loads(fields["headers"]),
            body=fields["body"],
        ),
        expire_at=fields["expire_at"],
    )


def name_of(tenant: str, path: str, key_sha256: str) -> str:
    """Name the document of a key: of a tenant and path, which may hold any character."""
    return hashlib.sha256(json.dumps([tenant, path, key_sha256]).encode()).hexdigest()


def _fields_of(record: IdempotencyRecord) -> Fields:
    return {
        "tenant": record.tenant,
        "path": record.path,
        "key_sha256": record.key_sha256,
        "request_sha256": record.request_sha256,
        "status": record.answer.status,
        "headers": json.dumps(dict(record.answer.headers)),
        "body": record.answer.body,
        "expire_at": record.expire_at,
    }
