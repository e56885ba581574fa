"""The wake-up message and the push envelope around it, encoded and decoded.

The envelope is the wrapped body that Pub/Sub pushes:
https://cloud.google.com/pubsub/docs/push#receive_push
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import BadEnvelope

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Tell a worker that a job is due; it carries no prompt."""

    job: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One delivery of a message to a push endpoint; `attempt` is 1 for the first, if it is told."""

    wake: Wake
    message_id: str
    subscription: str
    attempt: int | None


def encode_wake(wake: Wake) -> tuple[bytes, dict[str, str]]:
    """Make a message's data and attributes."""
    data = json.dumps({"v": VERSION, "job": wake.job}, separators=(",", ":")).encode()
    return data, {"traceparent": wake.traceparent} if wake.traceparent else {}


def encode_envelope(
    data: bytes,
    attributes: Mapping[str, str],
    *,
    message_id: str,
    published_at: datetime,
    subscription: str,
    attempt: int,
) -> bytes:
    """Wrap a message as Pub/Sub does before it pushes."""
    body = {
        "message": {
            "data": base64.b64encode(data).decode(),
            "attributes": dict(attributes),
            "messageId": message_id,
            "message_id": message_id,
            "publishTime": published_at.isoformat().replace("+00:00", "Z"),
        },
        "subscription": subscription,
        "deliveryAttempt": attempt,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def decode_envelope(body: bytes) -> Envelope:
    """Read a push body; raises BadEnvelope, saying what is wrong without repeating the body."""
    try:
        pushed = _Push.model_validate_json(body)
        wake = _Wake.model_validate_json(base64.b64decode(pushed.message.data, validate=True))
    except ValidationError as error:
        raise BadEnvelope(f"not an envelope that we read: {error.error_count()} faults") from None
    except ValueError:
        raise BadEnvelope("the message's data is not base64") from None
    return Envelope(
        wake=Wake(job=wake.job, traceparent=pushed.message.attributes.get("traceparent")),
        message_id=pushed.message.message_id,
        subscription=pushed.subscription,
        attempt=pushed.delivery_attempt,
    )


class _Wake(BaseModel):
    v: Literal[1]
    job: str = Field(pattern=r"^job_[a-z2-7]{26}$")


class _Message(BaseModel):
    model_config = ConfigDict(validate_by_alias=True)

    data: str = Field(max_length=10_000)
    message_id: str = Field(alias="messageId", max_length=200)
    attributes: dict[str, str] = {}


class _Push(BaseModel):
    message: _Message
    subscription: str = Field(max_length=500)
    delivery_attempt: int | None = Field(default=None, alias="deliveryAttempt")
