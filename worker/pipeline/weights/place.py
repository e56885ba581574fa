"""Where weights lie: a directory of this machine, or a folder of a bucket, read alike."""

import ssl
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from shared.cloud_folders import CloudFolder, read_cloud_folder
from shared.errors import WeightsDamaged
from shared.manifest import (
    MAX_BYTES,
    NAME,
    Digests,
    Manifest,
    WeightsFile,
    parse_manifest,
    read_manifest,
)
from worker.pipeline.weights.fetch import CONNECTIONS, fetch
from worker.pipeline.weights.files import check_digest, check_files, small_files
from worker.pipeline.weights.sources import LocalFile, Source

READERS = 4  # of a disk: one does not fill a fast one, more than four gained nothing
AT_ONCE = 16  # requests for small files
LARGEST_SMALL = 64 * 2**20  # bytes; a tokenizer has a few MB, and all small files stay in memory

Given = TypeVar("Given")
Made = TypeVar("Made")


class Place(Protocol):
    """Where weights lie."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def connections(self) -> int:
        """How many reads at once bring its large files soonest."""

    def manifest(self) -> Manifest:
        """Read the manifest; raises WeightsMissing, WeightsDamaged or WeightsUnreachable."""

    def small_files(self, manifest: Manifest) -> Path:
        """Give a folder with all files but the large ones, each of which is the manifest's.

        Raises WeightsMissing, WeightsDamaged or WeightsUnreachable, naming the file.
        """

    def sources(self, files: Sequence[WeightsFile]) -> list[Source]:
        """Give the large files to read ranges of, each of the size that the manifest tells.

        Raises WeightsMissing, WeightsDamaged or WeightsUnreachable, naming the file.
        """


def open_place(
    text: str,
    *,
    folder: Path | None,
    endpoint: str | None = None,
    connections: int | None = None,
) -> Place:
    """Understand a directory or gs:// URL.

    Of a bucket the small files are put into the folder, which has to be empty; `connections` are
    used at once; an endpoint is a Cloud Storage that asks for no credentials.
    """
    bucket = read_cloud_folder(text)
    if bucket is None:
        return LocalPlace(Path(text))
    if folder is None:
        raise ValueError(f"{text}: its small files need a folder")
    return CloudPlace(
        bucket, folder=folder, endpoint=endpoint, connections=connections or CONNECTIONS
    )


class LocalPlace:
    """See Place; nobody may write to the directory while it is read."""

    connections = READERS

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self._directory = directory

    def manifest(self) -> Manifest:
        """See Place.manifest."""
        return read_manifest(self._directory)

    def small_files(self, manifest: Manifest) -> Path:
        """See Place.small_files; it is the directory itself, in which nothing else may lie."""
        check_files(self._directory, manifest)
        for file in small_files(manifest):
            check_digest(self._directory, file)
        return self._directory

    def sources(self, files: Sequence[WeightsFile]) -> list[Source]:
        """See Place.sources."""
        return [_sized(LocalFile(self._directory / file.path), file) for file in files]


class CloudPlace:
    """See Place; each object is read in the generation that it had first."""

    def __init__(
        self,
        bucket: CloudFolder,
        *,
        folder: Path,
        endpoint: str | None = None,
        connections: int = CONNECTIONS,
    ) -> None:
        self.name, self.connections = str(bucket), connections
        self._bucket, self._folder = bucket, folder
        self._open = _opener(bucket, endpoint)

    def manifest(self) -> Manifest:
        """See Place.manifest."""
        source = self._open(NAME)
        if source.size > MAX_BYTES:
            raise WeightsDamaged(f"{source.name}: larger than {MAX_BYTES} bytes; prepare it again")
        return parse_manifest(_content(source), source.name)

    def small_files(self, manifest: Manifest) -> Path:
        """See Place.small_files."""
        _at_once(self._bring, small_files(manifest))
        return self._folder

    def sources(self, files: Sequence[WeightsFile]) -> list[Source]:
        """See Place.sources."""
        return _at_once(lambda file: _sized(self._open(file.path), file), files)

    def _bring(self, file: WeightsFile) -> None:
        if file.bytes > LARGEST_SMALL:
            raise WeightsDamaged(
                f"{self.name}/{file.path}: {file.bytes} bytes are no small file; only tensors may "
                f"be larger than {LARGEST_SMALL}"
            )
        source = _sized(self._open(file.path), file)
        content, digests = _content(source), Digests()
        digests.add(content)
        if digests.sha256 != file.sha256:
            raise WeightsDamaged(
                f"{source.name}: its sha256 is not the manifest's; upload the file again"
            )
        path = self._folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(stat.S_IRUSR)


def _opener(bucket: CloudFolder, endpoint: str | None) -> Callable[[str], Source]:
    # here, since it brings google-auth, which a directory does not need
    from worker.pipeline.weights.cloud_source import GOOGLE, CloudObject, GoogleToken, Token

    token: Token = (lambda: None) if endpoint else GoogleToken()
    at = (endpoint or GOOGLE).rstrip("/")
    # one for all: each would read the system's certificates again
    trust = ssl.create_default_context() if at.startswith("https:") else None

    def open_(path: str) -> Source:
        name = bucket.name_of(path)
        return CloudObject(bucket.bucket, name, token=token, endpoint=at, trust=trust)

    return open_


def _sized(source: Source, file: WeightsFile) -> Source:
    if source.size != file.bytes:
        raise WeightsDamaged(
            f"{source.name}: has {source.size} bytes, expected {file.bytes}; "
            "upload the weights again"
        )
    return source


def _content(source: Source) -> bytes:
    content = bytearray(source.size)
    fetch(source, content, crc32c=source.crc32c, connections=1)
    return bytes(content)


def _at_once(make: Callable[[Given], Made], all_: Sequence[Given]) -> list[Made]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(make, all_))
