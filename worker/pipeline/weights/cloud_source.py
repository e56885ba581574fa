"""An object of Cloud Storage as a source of ranges, pinned to the generation it first had."""

import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import google.auth
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from shared.errors import WeightsDamaged, WeightsMissing, WeightsUnreachable
from shared.manifest import PUT_THERE
from worker.pipeline.weights.sources import FAULTS, Connection, Interrupted

GOOGLE = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
ROLE = "roles/storage.objectViewer"
SILENCE = 10.0  # seconds without a byte after which a request counts as lost
LONGEST_PAUSE = 30.0  # seconds that a server may ask us to wait
LOOKS = 5  # tries to learn what is there before a fetch begins
FIRST_PAUSE = 0.1  # seconds between two of them, then twice as long
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_MAX_ANSWER = 64 * 1024

Token = Callable[[], str | None]


class GoogleToken:
    """The access token of whoever runs this, renewed in time; raises WeightsUnreachable."""

    def __init__(self, credentials: Any = None) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()  # many connections begin at the same moment

    def __call__(self) -> str:
        """Give a token that is valid now."""
        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=[SCOPE])
                if not self._credentials.valid:
                    self._credentials.refresh(Request())
            except GoogleAuthError as error:
                raise WeightsUnreachable(f"no Google credentials: {error}") from None
            return str(self._credentials.token)


class CloudObject:
    """See Source; asks for size, generation and checksum when it is made."""

    def __init__(
        self,
        bucket: str,
        path: str,
        *,
        token: Token,
        endpoint: str = GOOGLE,
        silence: float = SILENCE,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.name = f"gs://{bucket}/{path}"
        self._server, self._token, self._silence = endpoint, token, silence
        # one context: each would read the system's certificates again
        self._tls = (
            (trust or ssl.create_default_context()) if endpoint.startswith("https:") else None
        )
        self._object = f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(path, safe='')}"
        self.generation = 0
        found = self._look()
        try:
            self.size, self.generation = int(found["size"]), int(found["generation"])
            told = found.get("crc32c")
            if self.size < 0 or not isinstance(told, str | None):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise WeightsUnreachable(f"{self.name}: {endpoint} is no Cloud Storage") from None
        self.crc32c: str | None = told

    def connect(self) -> Connection:
        """See Source.connect."""
        path = f"/download{self._object}?alt=media&generation={self.generation}"
        return _Ranges(self, path, self._open())

    def check_unchanged(self) -> None:
        """See Source.check_unchanged: a generation is never written to, and was asked for."""

    def close(self) -> None:
        """See Source.close."""

    def headers(self) -> dict[str, str]:
        """Say who asks."""
        token = self._token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def refusal(self, status: int) -> Exception:
        """Say what an answer means that is not what was asked for."""
        if status in (401, 403):
            return WeightsMissing(
                f"{self.name}: may not be read ({status}); grant the service account {ROLE}"
            )
        if status in (404, 412, 416):
            return WeightsDamaged(
                f"{self.name}: generation {self.generation} is gone, it was replaced or deleted "
                "while it was read; start again"
            )
        return Interrupted(f"{self.name}: answered {status}")

    def _open(self) -> http.client.HTTPConnection:
        at = urlsplit(self._server)
        if self._tls:
            return http.client.HTTPSConnection(at.netloc, timeout=self._silence, context=self._tls)
        return http.client.HTTPConnection(at.netloc, timeout=self._silence)

    def _look(self) -> dict[str, Any]:
        latest: Exception | None = None
        for number in range(LOOKS):
            if number:
                time.sleep(random.uniform(0.5, 1.0) * FIRST_PAUSE * 2**number)  # noqa: S311
            connection = self._open()
            try:
                connection.request("GET", self._object, headers=self.headers())
                answer = connection.getresponse()
                if answer.status == 404:
                    raise WeightsMissing(f"{self.name}: not there; {PUT_THERE}")
                if answer.status != 200:
                    raise self.refusal(answer.status)
                found: dict[str, Any] = json.loads(answer.read(_MAX_ANSWER))
                return found
            except (*FAULTS, ValueError, RecursionError) as fault:
                latest = fault
            finally:
                connection.close()
        raise WeightsUnreachable(f"{self.name}: {latest}; see that {self._server} can be reached")


class _Ranges:
    """See Connection; keeps its socket from one range to the next."""

    def __init__(self, source: CloudObject, path: str, http_: http.client.HTTPConnection) -> None:
        self._source, self._path, self._http = source, path, http_
        self._answer: http.client.HTTPResponse | None = None
        self._socket: socket.socket | None = None

    def begin(self, start: int, stop: int) -> None:
        if self._answer is not None and not self._answer.isclosed():
            self.close()  # what is left of another range would be taken for this one
        if self._http.sock is None:
            self._http.connect()
        # the answer may take the socket away from the connection
        self._socket = self._http.sock
        wanted = {"Range": f"bytes={start}-{stop - 1}", **self._source.headers()}
        self._http.request("GET", self._path, headers=wanted)
        self._answer = self._http.getresponse()
        if self._answer.status != 206:
            raise self._refused(self._answer)
        self._check(self._answer, start, stop)

    def read_into(self, place: memoryview) -> int:
        assert self._answer
        count = self._answer.readinto(place)
        if not count:
            raise Interrupted(f"{self._source.name}: the answer ended before the range")
        return count

    def break_off(self) -> None:
        opened = self._socket
        if opened is not None:
            with suppress(OSError):
                # not its own shutdown: a TLS socket would go on reading what is still encrypted
                socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def close(self) -> None:
        self._http.close()
        if self._answer is not None:
            self._answer.close()
        self._answer = self._socket = None

    def _refused(self, answer: http.client.HTTPResponse) -> Exception:
        if answer.status not in _BUSY:
            return self._source.refusal(answer.status)
        asked = answer.getheader("Retry-After", "")
        pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0
        return Interrupted(f"{self._source.name}: answered {answer.status}", pause=pause)

    def _check(self, answer: http.client.HTTPResponse, start: int, stop: int) -> None:
        source = self._source
        found = answer.getheader("X-Goog-Generation", str(source.generation))
        if found != str(source.generation):
            raise WeightsDamaged(
                f"{source.name}: is of generation {found}, but {source.generation} was asked for: "
                "it was replaced while it was read; start again"
            )
        expected = f"bytes {start}-{stop - 1}/{source.size}"
        got = answer.getheader("Content-Range")
        if got != expected or answer.length != stop - start:
            raise Interrupted(f"{source.name}: gave {got} of {answer.length} bytes for {expected}")
