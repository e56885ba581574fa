"""Send one file into a bucket in parts, many at once, and make them one object there.

A part is named by where it begins, how long it is and its CRC32C, in a folder named by the file's
SHA-256. So a part that is there under its name is the part, whoever sent it; one of a file that
changed has another name.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from shared.errors import WeightsDamaged
from shared.gcp.weights import CloudFile
from shared.gcp.weights_upload import MOST_SOURCES, WeightsUpload
from shared.manifest import WeightsFile
from worker.pipeline.weights.crc import combined, to_text
from worker.pipeline.weights.lanes import in_lanes
from worker.pipeline.weights.push_plan import PARTS

PART_BYTES = 32 * 1024 * 1024  # each connection holds one in memory
AGAIN = "it changed, or the disk misreads it; see `illo weights verify`"

OnBytes = Callable[[int, bool], None]  # how many, and whether they had to be sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of the file that lie in the bucket as an object of their own."""

    start: int
    crc: int
    stored: CloudFile


def parts_of(file: WeightsFile) -> str:
    """Name the folder of a file's parts."""
    return f"{PARTS}{file.sha256[:32]}/"


class FileSender:
    """Sends one file of a weights directory; what lies in the bucket already is not sent again."""

    def __init__(
        self,
        upload: WeightsUpload,
        source: Path,
        file: WeightsFile,
        *,
        connections: int,
        part_bytes: int,
        on_bytes: OnBytes,
    ) -> None:
        self._upload, self._source, self._file = upload, source, file
        self._connections, self._part_bytes = connections, part_bytes
        self._on_bytes = on_bytes

    def send(self, *, over: int) -> None:
        """Send what is missing and make the object; parts stay until somebody erases them.

        Raises WeightsDamaged if the file is not the manifest's: then nothing is made of its parts.
        WeightsMissing means that somebody else erased parts meanwhile: look what is there now.
        """
        if self._file.bytes <= self._part_bytes:
            self._send_whole(over=over)
            return
        there = {each.path: each for each in self._upload.files(parts_of(self._file))}
        starts = range(0, self._file.bytes, self._part_bytes)
        pieces = in_lanes(
            lambda start: self._send_part(start, there), starts, lanes=self._connections
        )
        self._require(combined((piece.crc, piece.stored.bytes) for piece in pieces))
        self._join(pieces, there, over=over)

    def _send_whole(self, *, over: int) -> None:
        content = self._read(0)
        self._require(google_crc32c.value(content))
        self._upload.put(self._file.path, content, crc32c=self._crc32c, over=over)
        self._on_bytes(len(content), True)

    def _send_part(self, start: int, there: Mapping[str, CloudFile]) -> Piece:
        # read once: what is digested is what is sent
        content = self._read(start)
        crc = google_crc32c.value(content)
        path = self._path(start, len(content), crc)
        held, over = _held(there, path, len(content), to_text(crc))
        stored = held or self._upload.put(path, content, crc32c=to_text(crc), over=over)
        self._on_bytes(len(content), held is None)
        return Piece(start=start, crc=crc, stored=stored)

    def _join(self, pieces: Sequence[Piece], there: Mapping[str, CloudFile], *, over: int) -> None:
        while len(pieces) > MOST_SOURCES:
            groups = [
                pieces[first : first + MOST_SOURCES]
                for first in range(0, len(pieces), MOST_SOURCES)
            ]
            pieces = in_lanes(
                lambda group: self._joined(group, there), groups, lanes=self._connections
            )
        stored = [piece.stored for piece in pieces]
        self._upload.compose(self._file.path, stored, crc32c=self._crc32c, over=over)

    def _joined(self, group: Sequence[Piece], there: Mapping[str, CloudFile]) -> Piece:
        if len(group) == 1:
            return group[0]
        size = sum(piece.stored.bytes for piece in group)
        crc = combined((piece.crc, piece.stored.bytes) for piece in group)
        path = self._path(group[0].start, size, crc)
        held, over = _held(there, path, size, to_text(crc))
        stored = held or self._upload.compose(
            path, [piece.stored for piece in group], crc32c=to_text(crc), over=over
        )
        return Piece(start=group[0].start, crc=crc, stored=stored)

    def _read(self, start: int) -> bytes:
        """Read one part; the file is opened for each, so that parts are read at once."""
        wanted = min(self._part_bytes, self._file.bytes - start)
        with self._source.open("rb", buffering=0) as opened:
            read, left = [], wanted
            while left and (piece := os.pread(opened.fileno(), left, start + wanted - left)):
                read.append(piece)
                left -= len(piece)
        if left:
            raise WeightsDamaged(f"{self._source}: ended early; {AGAIN}")
        return b"".join(read)

    def _require(self, crc: int) -> None:
        if to_text(crc) != self._crc32c:
            raise WeightsDamaged(
                f"{self._source}: its crc32c is {to_text(crc)}, the manifest says {self._crc32c}; "
                f"{AGAIN}"
            )

    @property
    def _crc32c(self) -> str:
        assert self._file.crc32c, "whoever plans a push finds out the checksums that are missing"
        return self._file.crc32c

    def _path(self, start: int, size: int, crc: int) -> str:
        return f"{parts_of(self._file)}{start:012x}-{size:x}-{crc:08x}"


def _held(
    there: Mapping[str, CloudFile], path: str, size: int, crc32c: str
) -> tuple[CloudFile | None, int]:
    """Find an object that is what its name says; else which generation to put it over."""
    found = there.get(path)
    if found is None:
        return None, 0
    same = (found.bytes, found.crc32c) == (size, crc32c)
    return (found if same else None), found.generation
