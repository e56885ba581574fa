"""Artifacts as files that are written once.

The bytes of `jobs/j/a1/0.png` lie in `jobs/j/a1/0.g<generation>.png`, an image that any viewer
opens. The record beside it, `0.png.meta`, is what makes them exist: it is linked into place once
the bytes are on the disk, and linking fails where there is a record already. So a writer that is
killed leaves at most files that nobody reads, and of two writers one wins.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.documents import from_json, to_json
from shared.embedded.artifact_paths import ArtifactPaths, artifact_paths
from shared.embedded.disk import full_disk, is_full
from shared.errors import (
    ArtifactDamaged,
    ArtifactExists,
    ArtifactNotFound,
    ArtifactStoreFull,
    ArtifactStoreUnavailable,
    StoreError,
)
from shared.ports import Stored

GENERATION_BITS = 53  # exact in every JSON reader; drawn by chance, so no two writers meet
TRIES = 5  # a clean-up may take the folder away between making it and writing into it


class FileArtifactStore:
    """See ArtifactStore."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes, *, content_type: str) -> Stored:
        """See ArtifactStore.put."""
        paths = artifact_paths(self._root, name)
        record = _Record(
            name=name,
            generation=secrets.randbits(GENERATION_BITS) + 1,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            content_type=content_type,
        )
        with self._translated(name):
            winner = _read_record(paths) or self._write(paths, record, data)
        if winner.sha256 != record.sha256:
            raise ArtifactExists(f"{name} holds other bytes already")
        return _stored(winner)

    def get(self, name: str, generation: int) -> bytes:
        """See ArtifactStore.get."""
        paths = artifact_paths(self._root, name)
        with self._translated(name):
            record = _read_record(paths)
            if record is None or record.generation != generation:
                raise ArtifactNotFound(f"{name}: there is no generation {generation}")
            try:
                data = paths.payload(generation).read_bytes()
            except FileNotFoundError:
                if _read_record(paths) != record:
                    raise ArtifactNotFound(f"{name} was deleted meanwhile") from None
                raise ArtifactDamaged(f"{name}: its file is gone") from None
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise ArtifactDamaged(f"{name}: its bytes are not those that were put")
        return data

    def delete(self, name: str) -> None:
        """See ArtifactStore.delete."""
        paths = artifact_paths(self._root, name)
        with self._translated(name), suppress(FileNotFoundError):
            for path in paths.every_file():
                path.unlink(missing_ok=True)
            self._remove_empty(paths.folder)

    def url(self, name: str, generation: int) -> str | None:
        """See ArtifactStore.url: files are served by the API."""
        return None

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_full(error, self._root):
                raise ArtifactStoreFull(f"{name}: {full_disk(self._root)}") from error
            raise ArtifactStoreUnavailable(f"{name}: {error.strerror or error}") from error

    def _write(self, paths: ArtifactPaths, record: "_Record", data: bytes) -> "_Record":
        for _ in range(TRIES - 1):
            with suppress(FileNotFoundError):
                return self._write_once(paths, record, data)
        return self._write_once(paths, record, data)

    def _write_once(self, paths: ArtifactPaths, record: "_Record", data: bytes) -> "_Record":
        payload = paths.payload(record.generation)
        temporary = paths.temporary(record.generation)
        self._make_folder(paths.folder)
        try:
            _write_durably(payload, data)
            _write_durably(temporary, to_json(record).encode())
            try:
                os.link(temporary, paths.record)
            except FileExistsError:
                payload.unlink()
                winner = _read_record(paths)
                if winner is None:
                    raise ArtifactStoreUnavailable(f"{record.name} is being deleted") from None
                return winner
        except OSError:
            payload.unlink(missing_ok=True)
            raise
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(paths.folder)
        return record

    def _make_folder(self, folder: Path) -> None:
        missing = [folder]
        while missing[-1] != self._root and not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            _sync_folder(made.parent)

    def _remove_empty(self, folder: Path) -> None:
        # rmdir refuses a folder that is not empty: that is where this ends.
        with suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What was put under a name."""

    name: str
    generation: int
    sha256: str
    bytes: int
    content_type: str


def _stored(record: _Record) -> Stored:
    return Stored(
        name=record.name,
        generation=record.generation,
        sha256=record.sha256,
        bytes=record.bytes,
    )


def _read_record(paths: ArtifactPaths) -> _Record | None:
    try:
        return from_json(_Record, paths.record.read_bytes())
    except FileNotFoundError:
        return None
    except StoreError:
        raise ArtifactDamaged(f"{paths.record} cannot be read") from None


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
