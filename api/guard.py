"""Keep a service without keys to its own machine: browsers can be tricked into calling it."""

import re

from werkzeug.datastructures import Headers

from api.problems import Refusal
from api.tenants import Caller

LOOPBACK_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def refuse_foreign(method: str, headers: Headers) -> None:
    """Raise a Refusal if a page of another site may be behind the request.

    A foreign Host is how DNS rebinding looks, a foreign Origin is a page that posts across sites.
    """
    host = headers.get("Host")
    if host is not None and not LOOPBACK_NAME.fullmatch(host):
        detail = "without keys only requests for localhost, 127.0.0.1 or [::1] are answered"
        raise Refusal(status=403, code="foreign_host", detail=detail)
    origin = headers.get("Origin")
    if method not in SAFE and origin is not None and not _loopback_origin(origin):
        detail = "without keys no page of another site may change anything"
        raise Refusal(status=403, code="foreign_origin", detail=detail)


def refuse_remote(caller: Caller, address: str | None) -> None:
    """Raise a Refusal if a caller without a key is on another machine."""
    if caller.key_id is None and address not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        detail = "without keys only this machine itself may do that"
        raise Refusal(status=403, code="loopback_only", detail=detail)


def _loopback_origin(origin: str) -> bool:
    scheme, separator, host = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and bool(LOOPBACK_NAME.fullmatch(host))
