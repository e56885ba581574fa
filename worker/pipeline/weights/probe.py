"""Measure a link to a bucket: bytes a second by the number of connections; nothing is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from shared.cloud_folders import CloudFolder
from shared.errors import FetchCanceled, WeightsDamaged, WeightsMissing
from shared.manifest import MAX_BYTES, NAME, Manifest, parse_manifest
from worker.pipeline.weights.cloud_objects import open_object
from worker.pipeline.weights.fetch import fetch
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.sources import Source

CONNECTIONS = (1, 8, 32)
SECONDS = 4.0  # per number of connections; a connection is at its full speed within one
MOST_BYTES = 4 * 2**30  # per number of connections
TELLING_BYTES = 64 * 2**20  # fewer are there before the link is at its full speed

OnRate = Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What so many connections brought together."""

    connections: int
    bytes: int
    seconds: float

    @property
    def bytes_per_second(self) -> float:
        """How fast they were."""
        return self.bytes / self.seconds if self.seconds else 0.0

    def seconds_for(self, size: int) -> float | None:
        """How long so many bytes would take; None if nothing came."""
        return size / self.bytes_per_second if self.bytes_per_second else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What was read and how fast; `whole` is the size of all the weights, or of the one object."""

    object: str
    object_bytes: int
    label: str | None
    whole: int
    rates: tuple[Rate, ...]

    @property
    def telling(self) -> bool:
        """Whether the object is large enough to measure a link with."""
        return self.object_bytes >= TELLING_BYTES


def probe(
    folder: CloudFolder,
    *,
    emulator: str | None = None,
    connections: Sequence[int] = CONNECTIONS,
    seconds: float = SECONDS,
    on_rate: OnRate = lambda connections, fraction: None,
) -> Probed:
    """Read the largest file of the weights in a folder, or the one object that is named.

    Each number of connections reads on where the one before has ended, so that no cache on the way
    answers twice. Raises WeightsMissing, WeightsDamaged or WeightsUnreachable.
    """
    manifest = _manifest(folder, emulator)
    if manifest is None:
        name = folder.prefix
        whole = None
    else:
        largest = max(manifest.files, key=lambda file: file.bytes)
        name, whole = folder.name_of(largest.path), sum(file.bytes for file in manifest.files)
    source = open_object(folder.bucket, name, emulator=emulator)
    rates, place = [], 0
    for number in connections:
        place = place if place < source.size // 2 else 0
        on_rate(number, 0.0)
        rate = measure(source, place, number, seconds, partial(on_rate, number))
        place += rate.bytes
        rates.append(rate)
    return Probed(
        object=source.name,
        object_bytes=source.size,
        label=manifest.label if manifest else None,
        whole=whole or source.size,
        rates=tuple(rates),
    )


def measure(
    source: Source,
    place: int,
    connections: int,
    seconds: float,
    on_fraction: Callable[[float], None],
) -> Rate:
    """Read from a place on, for so long or until the end, and forget it."""
    received, began = 0, time.monotonic()
    latest = began

    def count(bytes_: int) -> None:
        nonlocal received, latest
        received, latest = bytes_, time.monotonic()
        on_fraction(min(1.0, (latest - began) / seconds))

    span = Span(place, min(source.size, place + MOST_BYTES), None)
    try:
        fetched = fetch(
            source,
            np.empty(0, np.uint8),
            [span],
            crc32c=None,  # only the whole of a file has one; each range's is computed all the same
            connections=connections,
            on_bytes=count,
            canceled=lambda: time.monotonic() - began > seconds,
        )
    except FetchCanceled:
        pass
    else:
        received, latest = fetched.bytes, began + fetched.seconds
    return Rate(connections=connections, bytes=received, seconds=latest - began)


def _manifest(folder: CloudFolder, emulator: str | None) -> Manifest | None:
    """Read the folder's manifest; None where an object lies instead of a folder."""
    try:
        source = open_object(folder.bucket, folder.name_of(NAME), emulator=emulator)
    except WeightsMissing:
        if not folder.prefix:
            raise
        return None
    if source.size > MAX_BYTES:
        raise WeightsDamaged(f"{source.name}: larger than {MAX_BYTES} bytes; prepare it again")
    content = bytearray(source.size)
    fetch(source, content, crc32c=source.crc32c)
    return parse_manifest(bytes(content), source.name)
