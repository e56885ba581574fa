"""Artifacts as objects of a bucket that are created once.

An object is created on the condition that there is none of its name, so a second writer, or our own
second try after an answer that got lost, is refused with 412. What is there then decides: the same
bytes are the same artifact. Reading asks for one generation and checks what came: the library does
not once it had to go on in the middle.
"""

import base64
import hashlib
import http.client
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Self

import google.auth
import google_crc32c
import urllib3
from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud.storage import Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from shared.artifact_names import parts_of
from shared.errors import (
    ArtifactDamaged,
    ArtifactExists,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
)
from shared.gcp.signed_links import SignedLinks
from shared.ports import Stored

SCOPE = "https://www.googleapis.com/auth/cloud-platform"  # what signing by IAM needs, too
RANGE = 8 * 1024 * 1024  # bytes asked for at once
TIMEOUTS = (5.0, 10.0)  # seconds to connect, and to hear the next bytes
# A worker asks four times more; all of it must end before its step counts as hung (120 s).
PATIENCE = timedelta(seconds=12)
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0  # seconds; the library draws from nothing to that much
CREATIONS = 3  # a deletion may come between a refusal and the look at what is there
READINGS = 2  # bytes that went wrong on the way are right when read again

# What stops a request, as the libraries below let it through; OSError has those of requests.
FAULTS = (
    GoogleAPIError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    OSError,
    http.client.HTTPException,
    urllib3.exceptions.HTTPError,
)
ROLES = {
    "storage.objects.create": "roles/storage.objectCreator",
    "storage.objects.get": "roles/storage.objectViewer",
    "storage.objects.delete": "roles/storage.objectUser",
}

log = logging.getLogger(__name__)


class CloudArtifactStore:
    """See ArtifactStore."""

    def __init__(
        self,
        bucket: str,
        *,
        emulator: str | None = None,
        links: SignedLinks | None = None,
        patience: timedelta = PATIENCE,
    ) -> None:
        credentials, client = _opened(emulator)
        self._bucket = client.bucket(bucket)
        self._links = links or SignedLinks(credentials, Request())
        retry = DEFAULT_RETRY.with_delay(initial=FIRST_PAUSE, maximum=LONGEST_PAUSE)
        patiently = retry.with_timeout(patience.total_seconds())
        self._how: dict[str, Any] = {"timeout": TIMEOUTS, "retry": patiently}

    def put(self, name: str, data: bytes, *, content_type: str) -> Stored:
        """See ArtifactStore.put."""
        parts_of(name)
        wanted = _Content.of(data)
        for _ in range(CREATIONS):
            there = self._create(name, data, wanted, content_type) or self._find(name)
            if there is not None:
                break
        else:
            raise ArtifactStoreUnavailable(f"{name} is being deleted")
        if there.content != wanted:
            raise ArtifactExists(f"{name} holds other bytes already")
        return Stored(
            name=name, generation=there.generation, sha256=wanted.sha256, bytes=wanted.size
        )

    def get(self, name: str, generation: int) -> bytes:
        """See ArtifactStore.get."""
        parts_of(name)
        there = self._find(name, generation) if generation > 0 else None
        if there is None:
            raise ArtifactNotFound(f"{name}: there is no generation {generation}")
        for _ in range(READINGS):
            data = self._read(name, there)
            if _Content.of(data) == there.content:
                return data
            log.warning("artifact_misread", extra={"artifact": name, "bytes": len(data)})
        raise ArtifactDamaged(f"{name}: its bytes are not those that were put")

    def delete(self, name: str) -> None:
        """See ArtifactStore.delete: of the generation that is there now, however often it asks."""
        parts_of(name)
        there = self._find(name)
        if there is None:
            return
        with (
            self._translated(name, "storage.objects.delete"),
            suppress(NotFound, PreconditionFailed),
        ):
            self._bucket.blob(name).delete(if_generation_match=there.generation, **self._how)

    def url(self, name: str, generation: int) -> str | None:
        """See ArtifactStore.url."""
        parts_of(name)
        return self._links.link(self._bucket.blob(name), generation=generation)

    def _create(
        self, name: str, data: bytes, wanted: "_Content", content_type: str
    ) -> "_Found | None":
        blob = self._bucket.blob(name)
        blob.metadata = {"sha256": wanted.sha256}
        blob.crc32c = wanted.crc32c  # bytes that arrive as others are refused
        with self._translated(name, "storage.objects.create"):
            try:
                # the library's own check would delete what is there, whoever wrote it
                blob.upload_from_string(
                    data, content_type, if_generation_match=0, checksum=None, **self._how
                )
            except PreconditionFailed:
                return None
            except NotFound:
                missing = f"ILLO_BUCKET: there is no bucket {self._bucket.name}; create it"
                raise ArtifactStoreUnavailable(missing) from None
            return _found(blob)

    def _find(self, name: str, generation: int | None = None) -> "_Found | None":
        blob = self._bucket.blob(name, generation=generation)
        with self._translated(name, "storage.objects.get"):
            try:
                blob.reload(**self._how)
            except NotFound:
                return None
            return _found(blob)

    def _read(self, name: str, there: "_Found") -> bytes:
        blob = self._bucket.blob(name, generation=there.generation)
        read = partial(blob.download_as_bytes, raw_download=True, checksum=None, **self._how)
        size = there.content.size
        ranges = [(start, min(start + RANGE, size) - 1) for start in range(0, size, RANGE)]
        with self._translated(name, "storage.objects.get"):
            try:
                return b"".join(read(start=first, end=last) for first, last in ranges)
            except NotFound:
                raise ArtifactNotFound(f"{name} was deleted meanwhile") from None

    @contextmanager
    def _translated(self, name: str, permission: str) -> Iterator[None]:
        try:
            yield
        except Forbidden:
            remedy = f"grant the service account {ROLES[permission]} on gs://{self._bucket.name}"
            log.error("forbidden", extra={"permission": permission, "remedy": remedy})
            raise ArtifactStoreUnavailable(f"{name}: {permission} is missing; {remedy}") from None
        except FAULTS as error:
            told = f"{name}: {type(error).__name__}: {str(error)[:300]}"
            raise ArtifactStoreUnavailable(told) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """By what bytes are told apart from others."""

    size: int
    crc32c: str
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Self:
        checksum = google_crc32c.value(data).to_bytes(4, "big")
        return cls(
            size=len(data),
            crc32c=base64.b64encode(checksum).decode(),
            sha256=hashlib.sha256(data).hexdigest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is there under a name."""

    generation: int
    content: _Content


def _found(blob: Any) -> _Found:
    # without our digest it is no object of ours, and equal to none
    content = _Content(
        size=blob.size, crc32c=blob.crc32c, sha256=(blob.metadata or {}).get("sha256", "")
    )
    return _Found(generation=blob.generation, content=content)


def _opened(emulator: str | None) -> tuple[Credentials, Client]:
    """Find the credentials and make a client, which needs no project for objects."""
    if emulator:
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
        at = {"api_endpoint": emulator}
        return nobody, Client(project=None, credentials=nobody, client_options=at)
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
        return credentials, Client(project=None, credentials=credentials)
    except GoogleAuthError as error:
        raise ArtifactStoreUnavailable(f"no Google credentials: {error}") from None
