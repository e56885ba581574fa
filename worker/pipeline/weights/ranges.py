"""Cut what is wanted of a file into ranges that are asked for one by one, in the wanted order."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

SMALL_GAP = 64 * 1024  # fewer bytes come along sooner than a request of their own would bring them


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` to `stop` of the file, wanted at `at` of the buffer; None: nowhere."""

    start: int
    stop: int
    at: int | None

    @property
    def bytes(self) -> int:
        """How many they are."""
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Self:
        """Give those of its bytes that lie between two places of the file."""
        start, stop = max(start, self.start), min(stop, self.stop)
        at = None if self.at is None else self.at + start - self.start
        return type(self)(start, stop, at)


@dataclass(frozen=True, slots=True)
class Range:
    """What one request asks for: spans that follow each other in the file without a gap."""

    spans: tuple[Span, ...]

    @property
    def start(self) -> int:
        """The first byte's place in the file."""
        return self.spans[0].start

    @property
    def stop(self) -> int:
        """The place behind the last byte."""
        return self.spans[-1].stop

    def from_place(self, place: int) -> Iterator[Span]:
        """Give what is left of the spans from a place of the file on."""
        return (span.part(place, span.stop) for span in self.spans if span.stop > place)


@dataclass(frozen=True, slots=True)
class Plan:
    """The ranges, and for each wanted span the number of ranges after which it is there."""

    ranges: tuple[Range, ...]
    complete_after: tuple[int, ...]

    def ready(self, ranges: int) -> int:
        """Tell how many of the wanted spans are there once the first so many ranges are."""
        return bisect_right(self.complete_after, ranges)


def whole(size: int) -> tuple[Span, ...]:
    """Want all of a file, in its order, at its own places."""
    return (Span(0, size, 0),) if size else ()


def plan(
    wanted: Sequence[Span], *, size: int, range_bytes: int, all_of_it: bool, known: int = 0
) -> Plan:
    """Cut the wanted spans into ranges; `all_of_it` reads the bytes between them as well.

    The first `known` bytes are not asked for. Raises ValueError unless the spans are parts of the
    file behind them that do not overlap.
    """
    gaps = _gaps(wanted, known, size)
    ranges: list[Range] = []
    gathered: list[Span] = []
    complete_after = []

    def close() -> None:
        if gathered:
            ranges.append(Range(tuple(gathered)))
            gathered.clear()

    def add(span: Span) -> None:
        if gathered and gathered[-1].stop != span.start:
            close()
        start = span.start
        while start < span.stop:
            room = range_bytes - (gathered[-1].stop - gathered[0].start if gathered else 0)
            stop = min(start + room, span.stop)
            gathered.append(span.part(start, stop))
            if stop - start == room:
                close()
            start = stop

    for span in wanted:
        add(span)
        complete_after.append(len(ranges) + bool(gathered))
        gap = gaps.get(span.stop)
        if all_of_it and gap and gap.bytes <= SMALL_GAP:
            add(gaps.pop(span.stop))
    for gap in gaps.values() if all_of_it else ():
        add(gap)
    close()
    # a span of no bytes, or one that ends in an open range, is there with the one before it
    return Plan(tuple(ranges), tuple(complete_after))


def _gaps(wanted: Sequence[Span], begin: int, size: int) -> dict[int, Span]:
    """Find what lies between the wanted spans, by where it starts."""
    gaps, end = {}, begin
    for span in sorted(wanted, key=lambda span: (span.start, span.stop)):
        if not end <= span.start <= span.stop <= size:
            raise ValueError(f"{span} overlaps another, or is no part of a file of {size} bytes")
        if span.start > end:
            gaps[end] = Span(end, span.start, None)
        end = span.stop
    if end < size:
        gaps[end] = Span(end, size, None)
    return gaps
