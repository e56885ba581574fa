"""What a bucket says of the weights in it: their manifest, and the objects beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import google.auth
from google.api_core.exceptions import Forbidden, NotFound, Unauthorized
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from shared.cloud_folders import CloudFolder
from shared.errors import WeightsDamaged, WeightsMissing, WeightsUnreachable
from shared.gcp.artifact_store import FAULTS, ROLES, TIMEOUTS
from shared.manifest import MAX_BYTES, NAME, PUT_THERE, Digests, Manifest, parse_manifest

SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
PATIENCE = timedelta(seconds=20)  # an API that starts can wait so long for its manifest
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds; the library draws from nothing to that much
READINGS = 2  # bytes that went wrong on the way are right when read again
MAX_OBJECTS = 4_096  # a folder of weights has two dozen

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFile:
    """One object of a folder; its path is what follows the folder's prefix."""

    path: str
    bytes: int
    generation: int
    crc32c: str | None


class CloudWeights:
    """A folder of a bucket as a weights directory; what passes is tried again for a while."""

    def __init__(
        self, folder: CloudFolder, *, emulator: str | None = None, patience: timedelta = PATIENCE
    ) -> None:
        """Find the credentials; raises WeightsUnreachable without. An emulator needs none."""
        self._folder = folder
        self._bucket = client_of(emulator, scope=SCOPE).bucket(folder.bucket)
        retry = DEFAULT_RETRY.with_delay(initial=FIRST_PAUSE, maximum=LONGEST_PAUSE)
        patiently = retry.with_timeout(patience.total_seconds())
        self._how: dict[str, Any] = {"timeout": TIMEOUTS, "retry": patiently}

    def manifest(self) -> Manifest:
        """Read the manifest, and no other object.

        Raises WeightsMissing if it is not there or may not be read, WeightsDamaged if it cannot be
        understood, WeightsUnreachable if it does not come.
        """
        return parse_manifest(self.read(NAME, at_most=MAX_BYTES), f"{self._folder}/{NAME}")

    def read(self, path: str, *, at_most: int) -> bytes:
        """Read a whole object, of one generation; one of more bytes is refused unread."""
        name = f"{self._folder}/{path}"
        blob = self._bucket.blob(self._folder.name_of(path))

        def look_and_read() -> bytes:
            blob.reload(**self._how)
            if blob.size > at_most:
                raise WeightsDamaged(
                    f"{name}: larger than {at_most} bytes; upload the weights again"
                )
            for _ in range(READINGS):
                content = self._range(blob, blob.size)
                digests = Digests()
                digests.add(content)
                if digests.crc32c == blob.crc32c:
                    return content
            raise WeightsUnreachable(f"{name}: does not come as it is stored; try again later")

        return self._translated(name, look_and_read)

    def head(self, file: CloudFile, size: int) -> bytes:
        """Read the first bytes of an object, of the generation that was listed."""
        name = f"{self._folder}/{file.path}"
        blob = self._bucket.blob(self._folder.name_of(file.path), generation=file.generation)
        content = self._translated(name, lambda: self._range(blob, min(size, file.bytes)))
        if len(content) < min(size, file.bytes):
            raise WeightsUnreachable(f"{name}: its first bytes do not come; try again later")
        return content

    def files(self, *, most: int = MAX_OBJECTS) -> tuple[CloudFile, ...]:
        """List the objects of the folder, in the order of their names, so many at most."""
        within = self._folder.name_of("")

        def listed() -> tuple[CloudFile, ...]:
            found = self._bucket.list_blobs(prefix=within or None, max_results=most, **self._how)
            return tuple(told_of(blob, within=within) for blob in found)

        return self._translated(str(self._folder), listed)

    def _range(self, blob: Any, size: int) -> bytes:
        if not size:
            return b""
        content = blob.download_as_bytes(
            start=0, end=size - 1, raw_download=True, checksum=None, **self._how
        )
        return bytes(content)

    def _translated(self, name: str, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except NotFound:
            raise WeightsMissing(f"{name}: not there; {PUT_THERE}") from None
        except (Forbidden, Unauthorized):
            role = ROLES["storage.objects.get"]
            raise WeightsMissing(
                f"{name}: may not be read; grant the service account {role} on "
                f"gs://{self._folder.bucket}"
            ) from None
        except FAULTS as fault:
            told = f"{type(fault).__name__}: {str(fault)[:300]}"
            raise WeightsUnreachable(f"{name}: {told}; try again later") from fault


def told_of(blob: Any, *, within: str) -> CloudFile:
    """Say what the bucket told of an object of the folder whose names begin so."""
    return CloudFile(
        path=blob.name.removeprefix(within),
        bytes=blob.size,
        generation=blob.generation,
        crc32c=blob.crc32c,
    )


def client_of(emulator: str | None, *, scope: str) -> Client:
    """Make a client for whoever runs this; raises WeightsUnreachable without credentials."""
    if emulator:
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
        at = {"api_endpoint": emulator}
        return Client(project=None, credentials=nobody, client_options=at)
    try:
        credentials, _ = google.auth.default(scopes=[scope])
    except GoogleAuthError as error:
        raise WeightsUnreachable(f"no Google credentials: {error}") from None
    return Client(project=None, credentials=credentials)
