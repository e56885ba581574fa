"""Open weights: read and judge everything but the tensors, before any of them is asked for."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import WeightsDamaged, WeightsError
from shared.manifest import Digests, Manifest, Role, WeightsFile
from worker.pipeline.weights.fetch import Wanted, fetch
from worker.pipeline.weights.gguf_cursor import Cursor
from worker.pipeline.weights.gguf_header import GgufHeader, read_header_at
from worker.pipeline.weights.layout import Layout, OpenedFile, lay_out
from worker.pipeline.weights.place import Place
from worker.pipeline.weights.prefix import Prefix
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.safetensors_header import (
    SafetensorsHeader,
    read_safetensors_header_at,
)
from worker.pipeline.weights.sources import Source
from worker.pipeline.weights.t5_check import fitting_encoder_sizes
from worker.pipeline.weights.verdict import check_tensors, check_words, files_in_order

PIECE_BYTES = 128 * 2**20  # fetched and then digested, where a manifest has no CRC32C


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Weights whose headers and small files were judged, and where their small files lie."""

    name: str
    manifest: Manifest
    folder: Path
    files: tuple[OpenedFile, ...]
    seconds: float

    @property
    def layout(self) -> Layout:
        """Where the tensors belong."""
        return lay_out(self.files)

    def of(self, role: Role) -> list[OpenedFile]:
        """The files of one model."""
        return [file for file in self.files if file.role is role]


def open_weights(place: Place) -> tuple[Opened, list[Wanted]]:
    """Judge the weights of a place; gives what is to be fetched of them, in the wanted order.

    Raises WeightsMissing, WeightsDamaged, WrongWeights or WeightsUnreachable.
    """
    began = time.monotonic()
    manifest = place.manifest()
    large = files_in_order(place.name, manifest)
    with ThreadPoolExecutor(1 + len(large)) as pool:
        # beside each other: every answer of a bucket takes a while to come
        small = pool.submit(place.small_files, manifest)
        sources = place.sources(large)
        prefixes = [Prefix(source) for source in sources]
        reading = [pool.submit(_read_header, *each) for each in zip(sources, prefixes, strict=True)]
        folder = small.result()
        words = pool.submit(check_words, folder)  # tens of thousands, while headers come
        with _told_of(place, folder):
            fitting_encoder_sizes(folder)  # of two faults the one that is easier to understand
        headers = [each.result() for each in reading]
    files = tuple(
        OpenedFile(role=file.role, header=header, sha256=file.sha256)
        for file, (header, _) in zip(large, headers, strict=True)
    )
    with _told_of(place, folder):
        check_tensors(folder, files, manifest.expects)
        words.result()
    opened = Opened(
        name=place.name,
        manifest=manifest,
        folder=folder,
        files=files,
        seconds=time.monotonic() - began,
    )
    wanted = [
        Wanted(
            source=source,
            spans=spans,
            crc32c=file.crc32c or checksum_by_digest(source, file),
            known=prefix.before(end),
        )
        for source, spans, file, prefix, (_, end) in zip(
            sources, opened.layout.spans, large, prefixes, headers, strict=True
        )
    ]
    return opened, wanted


def checksum_by_digest(source: Source, file: WeightsFile) -> str:
    """Read a file whose manifest has only its SHA-256, and give the CRC32C of just those bytes.

    So the fetch, which cannot digest ranges that come in any order, has something to check by.
    """
    digests = Digests()
    piece = np.empty(min(PIECE_BYTES, source.size), np.uint8)
    for start in range(0, source.size, PIECE_BYTES):
        part = piece[: source.size - start]
        fetch(source, part, [Span(start, start + part.size, 0)], crc32c=None)
        digests.add(part.tobytes())
    if digests.sha256 != file.sha256:
        raise WeightsDamaged(
            f"{source.name}: its sha256 is not the manifest's; download or upload the file again"
        )
    return digests.crc32c


@contextmanager
def _told_of(place: Place, folder: Path) -> Iterator[None]:
    """Name files by where they come from: nobody knows the folder that a bucket's are put into."""
    try:
        yield
    except WeightsError as refused:
        raise type(refused)(str(refused).replace(str(folder), place.name)) from None


def _read_header(source: Source, prefix: Prefix) -> tuple[GgufHeader | SafetensorsHeader, int]:
    """Give the header and the place behind it."""
    if source.name.endswith(".gguf"):
        header = read_header_at(Cursor(source.name, prefix, source.size))
        return header, prefix.tell()
    plain = read_safetensors_header_at(source.name, prefix, source.size)
    return plain, prefix.tell()
