"""Put files into a new folder: shared with where they came from if possible, else copied.

Whatever way they take, each is read once from end to end, and digested.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from shared.errors import NoRoom, WeightsDamaged
from shared.manifest import PIECE_BYTES, Digests, digests_of
from worker.pipeline.weights.safetensors_header import (
    LENGTH_BYTES,
    NOTES,
    SafetensorsHeader,
    StoredTensor,
)

FICLONE = 0x40049409  # Linux: let two files share their blocks until one of them is written to
SPARE_BYTES = 64 * 2**20  # left free on the disk
SHARED_FROM = 2**20  # bytes; what is smaller is copied, so that it can be edited
HEADER_STEP = 8  # a safetensors header ends at a multiple of it

OnBytes = Callable[[int], None]


class Way(StrEnum):
    """How a large file comes into the folder."""

    AUTO = "auto"
    LINK = "link"
    COPY = "copy"


def share(source: Path, target: Path, way: Way) -> bool:
    """Let a file appear a second time without using room; False if it has to be copied.

    Raises NoRoom, with the remedy, where sharing was asked for and cannot be.
    """
    source = source.resolve()  # a link to a link would break when the first is moved
    if way is Way.COPY or source.stat().st_size < SHARED_FROM:
        return False
    if _reflinked(source, target):
        return True
    try:
        os.link(source, target)
    except OSError as error:
        if way is Way.LINK:
            raise NoRoom(
                f"{source}: cannot be linked to {target.parent} ({error.strerror}); choose a "
                "folder on the same disk, or --copy"
            ) from None
        return False
    return True


def require_room(folder: Path, size: int) -> None:
    """Raise NoRoom unless so many bytes can be written there."""
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise NoRoom(
            f"{folder}: {free:,} bytes are free, {size:,} are to be written and {SPARE_BYTES:,} "
            "to be left; make room, or choose a folder on the disk of the downloads and --link"
        )


def read_shared(target: Path, on_bytes: OnBytes) -> Digests:
    """Digest a file that was shared."""
    return digests_of(target, on_bytes=on_bytes)


def copy_digested(source: Path, target: Path, on_bytes: OnBytes) -> Digests:
    """Copy a file, digesting what is written."""
    digests = Digests()
    with source.open("rb", buffering=0) as opened, _written(target, digests, on_bytes) as write:
        while piece := opened.read(PIECE_BYTES):
            write(piece)
    return digests


def joined_bytes(shards: Sequence[SafetensorsHeader]) -> int:
    """Say how large the file will be that `join_digested` makes."""
    return len(_joined_header(shards)) + sum(
        tensor.stop - tensor.start for _, tensor in _tensors(shards)
    )


def join_digested(shards: Sequence[SafetensorsHeader], target: Path, on_bytes: OnBytes) -> Digests:
    """Write the tensors of several safetensors files into one, digesting what is written.

    The bytes pass through unchanged, in the order of the files; no tensor is loaded as a whole.
    """
    digests = Digests()
    with _written(target, digests, on_bytes) as write:
        write(_joined_header(shards))
        for shard in shards:
            with Path(shard.path).open("rb", buffering=0) as opened:
                for tensor in _in_order(shard.tensors).values():
                    opened.seek(tensor.start)
                    for piece in _pieces(opened, tensor.stop - tensor.start, Path(shard.path)):
                        write(piece)
    return digests


@contextmanager
def _written(
    target: Path, digests: Digests, on_bytes: OnBytes
) -> Iterator[Callable[[bytes], None]]:
    with target.open("xb") as made:

        def write(piece: bytes) -> None:
            made.write(piece)
            digests.add(piece)
            on_bytes(len(piece))

        try:
            yield write
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise NoRoom(f"{target.parent}: the disk is full; make room") from None


def _pieces(opened: BinaryIO, size: int, path: Path) -> Iterator[bytes]:
    left = size
    while left:
        piece = opened.read(min(left, PIECE_BYTES))
        if not piece:
            raise WeightsDamaged(f"{path}: it shrank while it was read; download the file again")
        left -= len(piece)
        yield piece


def _joined_header(shards: Sequence[SafetensorsHeader]) -> bytes:
    listed: dict[str, object] = {}
    notes = {key: value for shard in shards for key, value in shard.notes.items()}
    listed[NOTES] = {"format": "pt", **notes}  # some loaders refuse a file that does not say so
    end = 0
    for name, tensor in _tensors(shards):
        start, end = end, end + tensor.stop - tensor.start
        listed[name] = {
            "dtype": tensor.type, "shape": list(tensor.shape), "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_STEP)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _tensors(shards: Sequence[SafetensorsHeader]) -> Iterator[tuple[str, StoredTensor]]:
    for shard in shards:
        yield from _in_order(shard.tensors).items()


def _in_order(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return dict(sorted(tensors.items(), key=lambda each: each[1].start))


def _reflinked(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    from fcntl import ioctl

    with source.open("rb") as opened:
        try:
            with target.open("xb") as made:
                ioctl(made.fileno(), FICLONE, opened.fileno())
        except OSError:
            # most file systems cannot
            with suppress(FileNotFoundError):
                target.unlink()
            return False
    return True
