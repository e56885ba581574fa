"""What ties a request to its log lines and to the worker's: request id and trace context."""

import re
import secrets
from dataclasses import dataclass

from werkzeug.datastructures import Headers

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """The ids that travel with one request."""

    request_id: str
    traceparent: str


def correlation_of(headers: Headers) -> Correlation:
    """Take the caller's ids where they are well-formed, else make new ones."""
    request_id = headers.get("X-Request-Id", "")
    traceparent = headers.get("traceparent", "")
    return Correlation(
        request_id=request_id if _REQUEST_ID.fullmatch(request_id) else _new_request_id(),
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else _new_traceparent(),
    )


def _new_request_id() -> str:
    return "req_" + secrets.token_hex(16)


def _new_traceparent() -> str:
    # all-zero ids are invalid; 2^-64 is not worth a loop
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
