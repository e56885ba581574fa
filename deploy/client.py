"""Speak to the HTTP API: refusals become RequestRefused, silence becomes ServiceUnreachable."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3 import exceptions
from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)

from shared.errors import BadSettings, RequestRefused, ServiceUnreachable

CONNECT_SECONDS, READ_SECONDS = 5.0, 90.0  # a long poll lasts up to 60
# A service that never answered is soon called unreachable; one that did is given time to restart.
STRANGER_PATIENCE, FRIEND_PATIENCE = 1.0, 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
_BUSY = frozenset({429, 502, 503, 504})
_OF_THE_FILE = frozenset({400, 413, 415, 422})  # others refuse whoever asks, whatever the file

Query = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Read the body; raises ServiceUnreachable if something else than illo answers there."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise ServiceUnreachable(
                "what answers there does not speak JSON; is it illo?"
            ) from None


class Client:
    """The service at one address, for one caller."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {_sendable(key)}"} if key else {}
        self._monotonic, self._sleep = monotonic, sleep
        self._met = False
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            # redirects only: a link to a bucket; whether to send again is decided below
            retries=urllib3.Retry(
                connect=0, read=0, status=0, other=0, redirect=3, respect_retry_after_header=False
            ),
        )

    def get(self, path: str, query: Query | None = None, *, etag: str | None = None) -> Reply:
        """Read; 304 if the representation still has this ETag."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        address = f"{path}?{urlencode(given)}" if given else path
        headers = {"If-None-Match": etag} if etag else {}
        return self._ask("GET", address, headers=headers)

    def pages(self, path: str, query: Query | None = None) -> Iterator[Any]:
        """Read the items of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, {**(query or {}), "cursor": cursor}).json()
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def post(self, path: str, body: Any = None) -> Reply:
        """Ask for a change, again and again until it is answered: its key makes it happen once."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        content = json.dumps({} if body is None else body).encode()
        return self._ask("POST", path, body=content, headers=headers)

    def upload(self, file: Path) -> Any:
        """Upload a picture; doing so again gives the same asset. A refusal of it names the file."""
        content, kind = urllib3.encode_multipart_formdata(
            {"file": (file.name, file.read_bytes(), "application/octet-stream")}
        )
        headers = {"Content-Type": kind}
        try:
            return self._ask("POST", "/v1/assets", body=content, headers=headers).json()
        except RequestRefused as refused:
            if refused.status not in _OF_THE_FILE:
                raise
            said = f"{file}: {refused}"
            raise RequestRefused(said, status=refused.status, code=refused.code) from None

    def _ask(
        self,
        method: str,
        address: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Reply:
        """Send a request that may arrive twice, until it is answered or patience ends."""
        began, pause = self._monotonic(), FIRST_PAUSE
        while True:
            patience = FRIEND_PATIENCE if self._met else STRANGER_PATIENCE
            last = self._monotonic() - began + pause > patience
            try:
                reply = self._send(method, address, headers, body)
            except HTTPError as error:
                if last:
                    raise ServiceUnreachable(_unreachable(self.url, error)) from None
            else:
                self._met = True
                if reply.status < 400:
                    return reply
                if last or not _may_pass(reply):
                    raise self._locked_out() if reply.status == 401 else _refusal(reply)
                pause = max(pause, _retry_after(reply))
            self._sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _locked_out(self) -> RequestRefused:
        fault = "does not accept the key in ILLO_KEY" if self._headers else "asks for a key"
        said = (
            f"{self.url} {fault}; set ILLO_KEY to one that its operator made with `illo keys new`"
        )
        return RequestRefused(said, status=401, code="unauthenticated")

    def _send(
        self, method: str, address: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        response = self._pool.request(
            method, self.url + address, body=body, headers={**self._headers, **headers}
        )
        return Reply(status=response.status, headers=response.headers, body=response.data)


def is_healthy(url: str) -> bool:
    """Ask once whether the API answers."""
    try:
        return urllib3.request("GET", f"{url}/healthz", retries=False, timeout=1.0).status == 200
    except HTTPError:
        return False


def _sendable(key: str) -> str:
    """Take a key that fits into a header; raises BadSettings, without the key."""
    if not (key.isascii() and key.isprintable()):
        raise BadSettings("ILLO_KEY: no key has such characters; copy it again, in one line")
    return key


def _unreachable(url: str, error: HTTPError) -> str:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    return (
        f"no answer from {url}: {_in_words(reason)}; "
        "start it with `illo up`, or say where it is with --url or ILLO_URL"
    )


def _in_words(reason: Exception) -> str:
    words: Mapping[type[Exception], str] = {
        NameResolutionError: "no machine of that name is known",  # before the kind that it is of
        NewConnectionError: "nobody listens there",
        exceptions.TimeoutError: "it takes too long",
        SSLError: "a secure connection could not be made",
        ProtocolError: "the connection broke off",
    }
    known = (said for kind, said in words.items() if isinstance(reason, kind))
    return next(known, "the connection failed")


def _retry_after(reply: Reply) -> float:
    wish = reply.headers.get("Retry-After", "")
    return min(float(wish), LONGEST_PAUSE) if wish.isdigit() else 0.0


def _may_pass(reply: Reply) -> bool:
    """Whether asking again soon may help; for a full quota it does not."""
    return reply.status in _BUSY and getattr(_refusal(reply), "code", "") != "quota_exceeded"


def _refusal(reply: Reply) -> RequestRefused | ServiceUnreachable:
    try:
        problem = json.loads(reply.body)
        code, said = str(problem["code"]), str(problem["detail"])
        faults = [fault for fault in problem["errors"] if fault["detail"] != said]
        lines = [said, *(f"  {fault['pointer']}: {fault['detail']}" for fault in faults)]
    except (ValueError, KeyError, TypeError):
        code, lines = "unknown", [f"it answered {reply.status}, without saying why"]
    if reply.status >= 500:
        return ServiceUnreachable(f"the service cannot do it now: {lines[0]}")
    return RequestRefused("\n".join(lines), status=reply.status, code=code)
