"""Put weights into a folder of a bucket: nothing overwritten unasked, all of it checked."""

import io
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from google.api_core.exceptions import (
    BadRequest,
    Forbidden,
    NotFound,
    PreconditionFailed,
    Unauthorized,
)
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from shared.cloud_folders import CloudFolder
from shared.errors import PushRefused, WeightsInTheWay, WeightsMissing, WeightsUnreachable
from shared.gcp.artifact_store import FAULTS
from shared.gcp.weights import CloudFile, client_of, told_of

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ROLE = "roles/storage.objectUser"
MOST_SOURCES = 32  # that Cloud Storage makes one object of at once
CHUNK = 8 * 1024 * 1024  # bytes in one request; it goes on behind the last that arrived
TIMEOUTS = (60.0, 60.0)  # seconds in which a chunk must be sent, and then answered
PATIENCE = timedelta(minutes=2)  # with one request
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds; the library draws from nothing to that much
SENDINGS = 4  # bytes that went wrong on the way are right when sent again
KIND = "application/octet-stream"


class WeightsUpload:
    """A folder of a bucket that is written to; what passes is tried again for a while."""

    def __init__(
        self, folder: CloudFolder, *, emulator: str | None = None, patience: timedelta = PATIENCE
    ) -> None:
        """Find the credentials; raises WeightsUnreachable without. An emulator needs none."""
        self._folder = folder
        self._bucket = client_of(emulator, scope=SCOPE).bucket(folder.bucket)
        retry = DEFAULT_RETRY.with_delay(initial=FIRST_PAUSE, maximum=LONGEST_PAUSE)
        patiently = retry.with_timeout(patience.total_seconds())
        self._how: dict[str, Any] = {"timeout": TIMEOUTS, "retry": patiently}

    def files(self, within: str = "") -> tuple[CloudFile, ...]:
        """List the objects of the folder whose paths begin so, in the order of their names."""
        prefix = self._folder.name_of(within)
        with self._translated(within):
            try:
                found = [*self._bucket.list_blobs(prefix=prefix or None, **self._how)]
            except NotFound:
                raise PushRefused(
                    f"gs://{self._folder.bucket}: there is no such bucket; create it first"
                ) from None
            return tuple(self._told(blob) for blob in found)

    def put(self, path: str, content: bytes, *, crc32c: str, over: int = 0) -> CloudFile:
        """Send an object, over the generation that is named or where there is none.

        The same bytes that are there already are as good as sent; raises WeightsInTheWay if others
        are. Bytes that arrive as others are refused by the bucket, and sent again a few times.
        """
        fault: Exception | None = None
        for number in range(SENDINGS):
            if number:
                time.sleep(random.random() * FIRST_PAUSE * 2**number)  # noqa: S311
            blob = self._blob(path)
            blob.crc32c = crc32c  # the bucket compares it with what arrived
            with self._translated(path):
                try:
                    blob.upload_from_file(
                        io.BytesIO(content), size=len(content), content_type=KIND,
                        if_generation_match=over, checksum=None, **self._how,
                    )  # fmt: skip
                    return self._as_sent(path, self._told(blob), len(content), crc32c)
                except PreconditionFailed:
                    return self._already(path, len(content), crc32c)
                except (BadRequest, DataCorruption, NotFound) as refused:  # or a session that ended
                    fault = refused
        raise PushRefused(
            f"{self._name(path)}: was refused {SENDINGS} times ({str(fault)[:200]}); see whether "
            "the disk reads the same bytes twice, then push again"
        )

    def compose(
        self, path: str, sources: Sequence[CloudFile], *, crc32c: str, over: int = 0
    ) -> CloudFile:
        """Make one object of others that follow each other; see put.

        Raises WeightsMissing if one of them is gone.
        """
        size = sum(source.bytes for source in sources)
        blob = self._blob(path)
        blob.content_type = KIND
        parts = [self._blob(source.path, generation=source.generation) for source in sources]
        with self._translated(path):
            try:
                blob.compose(
                    parts,
                    if_generation_match=over,
                    if_source_generation_match=[source.generation for source in sources],
                    **self._how,
                )
                return self._as_sent(path, self._told(blob), size, crc32c)
            except PreconditionFailed:
                return self._already(path, size, crc32c)
            except NotFound:
                raise WeightsMissing(f"{self._name(path)}: a part of it is gone") from None

    def find(self, path: str) -> CloudFile | None:
        """Look at an object; None if there is none."""
        blob = self._blob(path)
        with self._translated(path):
            try:
                blob.reload(**self._how)
            except NotFound:
                return None
            return self._told(blob)

    def delete(self, file: CloudFile) -> None:
        """Delete an object unless it was replaced; a bucket with versions keeps an old one."""
        self._delete(file, generation=None)

    def erase(self, file: CloudFile) -> None:
        """Delete one generation of an object, also where a bucket keeps old versions."""
        self._delete(file, generation=file.generation)

    def _delete(self, file: CloudFile, *, generation: int | None) -> None:
        with self._translated(file.path):
            try:
                self._blob(file.path, generation=generation).delete(
                    if_generation_match=file.generation, **self._how
                )
            except (NotFound, PreconditionFailed):
                return

    def _as_sent(self, path: str, told: CloudFile, size: int, crc32c: str) -> CloudFile:
        if (told.bytes, told.crc32c) == (size, crc32c):
            return told
        self.erase(told)
        raise PushRefused(
            f"{self._name(path)}: was stored with {told.bytes} bytes and the crc32c "
            f"{told.crc32c}, but {size} and {crc32c} were sent; it was deleted, push again"
        )

    def _already(self, path: str, size: int, crc32c: str) -> CloudFile:
        found = self.find(path)
        if found is None:
            raise WeightsMissing(f"{self._name(path)}: was deleted while it was looked at")
        if (found.bytes, found.crc32c) != (size, crc32c):
            raise WeightsInTheWay(
                f"{self._name(path)}: something else was put there meanwhile; push to another "
                "folder, or with --replace"
            )
        return found

    def _blob(self, path: str, *, generation: int | None = None) -> Any:
        name = self._folder.name_of(path)
        return self._bucket.blob(name, chunk_size=CHUNK, generation=generation)

    def _told(self, blob: Any) -> CloudFile:
        return told_of(blob, within=self._folder.name_of(""))

    def _name(self, path: str) -> str:
        return f"{self._folder}/{path}" if path else str(self._folder)

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except (Forbidden, Unauthorized):
            raise PushRefused(
                f"{self._name(path)}: may not be written, listed or deleted; grant this account "
                f"{ROLE} on gs://{self._folder.bucket}"
            ) from None
        except FAULTS as fault:
            told = f"{type(fault).__name__}: {str(fault)[:300]}"
            raise WeightsUnreachable(f"{self._name(path)}: {told}; try again later") from fault
