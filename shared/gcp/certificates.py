"""Google's certificates, by which the identity tokens of pushes are verified."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from shared.errors import BadSettings, StoreUnavailable

TIMEOUT = urllib3.Timeout(connect=3, read=5)  # a push waits for it
MOST_BYTES = 65_536  # Google's answer has about 3,000
MOST_KEYS = 32
# How long an answer serves, in seconds: what Cache-Control says, within these bounds.
SHORTEST, LONGEST, UNSAID = 60.0, 24 * 3600.0, 300.0
# Google announces keys long before it signs with them: a day without its answer does no harm.
STILL_GOOD = 24 * 3600.0
PAUSE = 5.0  # seconds between two fetches, whatever tokens arrive and however fetching ends

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What was fetched, and until when it serves."""

    certificates: Mapping[str, str]
    fresh_until: float
    good_until: float


class Certificates:
    """Certificates by key id: fetched when needed, by one thread at a time, and kept for a while.

    Calling it raises StoreUnavailable when there are none to judge a token by.
    """

    def __init__(self, url: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._url = _trusted(url)
        self._now = now
        self._http = urllib3.PoolManager(num_pools=1, retries=False)
        self._lock = threading.Lock()
        self._answer: _Answer | None = None
        self._next_fetch = now()

    def __call__(self) -> Mapping[str, str]:
        """Return the certificates; the mapping looks for newer ones when `[]` finds none."""
        answer = self._answer
        if answer is None or self._now() >= answer.fresh_until:
            answer = self._renewed(answer)
        if answer is None or self._now() >= answer.good_until:
            raise StoreUnavailable(f"{self._url}: no certificates to verify a token by")
        return _Known(answer.certificates, self._newer(answer))

    def _newer(self, answer: _Answer) -> Callable[[], Mapping[str, str]]:
        def newer() -> Mapping[str, str]:
            return (self._renewed(answer) or answer).certificates

        return newer

    def _renewed(self, seen: _Answer | None) -> _Answer | None:
        """Fetch, unless another thread has or it was tried just now; return what there is then."""
        # Whoever has certificates to go on with does not wait for the thread that fetches.
        if not self._lock.acquire(blocking=seen is None):
            return self._answer
        try:
            if self._answer is seen and self._now() >= self._next_fetch:
                self._next_fetch = self._now() + PAUSE
                self._answer = self._fetch() or seen
        finally:
            self._lock.release()
        return self._answer

    def _fetch(self) -> _Answer | None:
        try:
            reply = self._http.request(
                "GET", self._url, timeout=TIMEOUT, redirect=False, preload_content=False
            )
            try:
                content = reply.read(MOST_BYTES + 1)
            finally:
                reply.close()
            certificates = _certificates(reply.status, content)
        except (HTTPError, RecursionError, ValueError) as error:
            log.warning("certificates_not_fetched", extra={"reason": str(error)[:300]})
            return None
        now, lasts = self._now(), _lasts(reply.headers.get("Cache-Control", ""))
        return _Answer(
            certificates=certificates, fresh_until=now + lasts, good_until=now + lasts + STILL_GOOD
        )


class _Known(dict[str, str]):
    """Certificates as they were, with a way to newer ones for an id that is not among them."""

    def __init__(
        self, certificates: Mapping[str, str], newer: Callable[[], Mapping[str, str]]
    ) -> None:
        super().__init__(certificates)
        self._newer = newer

    def __missing__(self, key: str) -> str:
        return self._newer()[key]


def _trusted(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname or "")):
        raise BadSettings(f"ILLO_CERTIFICATES: {url} is not https; http is for this machine only")
    return url


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _certificates(status: int, content: bytes) -> Mapping[str, str]:
    if status != 200:
        raise ValueError(f"the answer is {status}")
    if len(content) > MOST_BYTES:
        raise ValueError(f"the answer has more than {MOST_BYTES} bytes")
    read: Any = json.loads(content)
    if not isinstance(read, dict) or not 0 < len(read) <= MOST_KEYS:
        raise ValueError(f"the answer is no object with 1 to {MOST_KEYS} certificates")
    if not all(isinstance(pem, str) and pem.startswith("-----BEGIN ") for pem in read.values()):
        raise ValueError("the answer has something that is no certificate")
    return read


def _lasts(cache_control: str) -> float:
    said = re.search(r"\bmax-age=(\d{1,9})\b", cache_control)
    return min(max(float(said[1]) if said else UNSAID, SHORTEST), LONGEST)
