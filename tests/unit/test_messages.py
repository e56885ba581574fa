"""Messages and envelopes: what is written is read, and nothing else is."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadEnvelope
from shared.messages import Wake, decode_envelope, encode_envelope, encode_wake
from tests.builders import NOW, job_id

JOB = job_id(1)
SUBSCRIPTION = "projects/p/subscriptions/s"


def pushed(wake: Wake, *, message_id: str = "7", attempt: int = 1) -> bytes:
    body, attributes = encode_wake(wake)
    return encode_envelope(
        body,
        attributes,
        message_id=message_id,
        published_at=NOW,
        subscription=SUBSCRIPTION,
        attempt=attempt,
    )


@given(
    job=st.from_regex(r"job_[a-z2-7]{26}", fullmatch=True),
    traceparent=st.none() | st.text(min_size=1),
    message_id=st.text(max_size=200),
    attempt=st.integers(min_value=1, max_value=10**6),
)
def test_what_is_pushed_is_what_was_published(
    job: str, traceparent: str | None, message_id: str, attempt: int
) -> None:
    wake = Wake(job=job, traceparent=traceparent)
    envelope = decode_envelope(pushed(wake, message_id=message_id, attempt=attempt))
    assert envelope.wake == wake
    assert (envelope.message_id, envelope.attempt) == (message_id, attempt)
    assert envelope.subscription == SUBSCRIPTION


def test_a_push_looks_like_pub_subs() -> None:
    assert json.loads(pushed(Wake(job=JOB))) == {
        "message": {
            "data": base64.b64encode(f'{{"v":1,"job":"{JOB}"}}'.encode()).decode(),
            "attributes": {},
            "messageId": "7",
            "message_id": "7",
            "publishTime": "2026-03-01T12:00:00Z",
        },
        "subscription": SUBSCRIPTION,
        "deliveryAttempt": 1,
    }


def test_what_pub_sub_may_leave_out_or_add_is_no_fault() -> None:
    push = json.loads(pushed(Wake(job=JOB)))
    del push["deliveryAttempt"], push["message"]["attributes"]
    push["message"]["orderingKey"] = push["newField"] = "x"
    envelope = decode_envelope(json.dumps(push).encode())
    assert envelope.attempt is None
    assert envelope.wake == Wake(job=JOB)


def with_message(**others: Any) -> bytes:
    push = json.loads(pushed(Wake(job=JOB)))
    push["message"] |= others
    return json.dumps(push).encode()


def with_body(body: bytes) -> bytes:
    return with_message(data=base64.b64encode(body).decode())


def without(*path: str) -> bytes:
    push = json.loads(pushed(Wake(job=JOB)))
    place = push
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return json.dumps(push).encode()


MALFORMED = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "deeply nested": b"[" * 100_000,
    "no message": without("message"),
    "no data": without("message", "data"),
    "no message id": without("message", "messageId"),
    "no subscription": without("subscription"),
    "data that is no base64": with_message(data="*"),
    "data with a wrong end": with_message(data="QQ"),
    "data that is no text": with_message(data=7),
    "data too long": with_message(data="A" * 10_004),
    "attributes that are no texts": with_message(attributes={"a": 1}),
    "no wake-up": with_body(b"hello"),
    "another version": with_body(f'{{"v":2,"job":"{JOB}"}}'.encode()),
    "no version": with_body(f'{{"job":"{JOB}"}}'.encode()),
    "no job": with_body(b'{"v":1}'),
    "a job that is no id": with_body(b'{"v":1,"job":"../../etc/passwd"}'),
    "an id that is too long": with_body(f'{{"v":1,"job":"{JOB}a"}}'.encode()),
    "an id with a line break": with_body(f'{{"v":1,"job":"{JOB}\\n"}}'.encode()),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_push_is_refused(what: str) -> None:
    with pytest.raises(BadEnvelope):
        decode_envelope(MALFORMED[what])


@given(st.binary(max_size=300))
def test_no_body_does_worse_than_being_refused(body: bytes) -> None:
    with pytest.raises(BadEnvelope):
        decode_envelope(body)


@given(st.binary(max_size=300))
def test_no_data_does_worse_than_being_refused(body: bytes) -> None:
    with pytest.raises(BadEnvelope):
        decode_envelope(with_body(body))


def test_a_refusal_does_not_repeat_the_body() -> None:
    secret = with_body(b'{"v":1,"job":"a prompt that nobody may log"}')
    with pytest.raises(BadEnvelope) as raised:
        decode_envelope(secret)
    assert "prompt" not in str(raised.value)
