"""How what is wanted is cut into requests."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.weights.ranges import SMALL_GAP, Plan, Span, plan, whole


@st.composite
def wishes(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Some parts of a file, in any order, and the file's size."""
    sizes = draw(st.lists(st.integers(0, 3 * SMALL_GAP), min_size=1, max_size=12))
    ends = list(itertools.accumulate(sizes))
    spans = [Span(end - size, end, end - size) for size, end in zip(sizes, ends, strict=True)]
    wanted = draw(st.permutations([span for span in spans if draw(st.booleans())]))
    return wanted, ends[-1]


def pieces(planned: Plan, ranges: int | None = None) -> list[Span]:
    return [span for range_ in planned.ranges[:ranges] for span in range_.spans]


def placed(spans: list[Span]) -> set[int]:
    """The ends of all thousandths that are covered: sets of single bytes would be large."""
    return {place for span in spans for place in range(-(-span.start // 997) * 997, span.stop, 997)}


@given(wishes(), st.integers(1000, 200_000), st.booleans())
def test_each_byte_is_asked_for_once(
    wish: tuple[list[Span], int], range_bytes: int, all_of_it: bool
) -> None:
    wanted, size = wish
    planned = plan(wanted, size=size, range_bytes=range_bytes, all_of_it=all_of_it)
    asked = sorted(pieces(planned), key=lambda span: span.start)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(asked))
    covered = sum(span.bytes for span in asked)
    assert covered == (size if all_of_it else sum(span.bytes for span in wanted))
    assert placed([span for span in asked if span.at is not None]) == placed(wanted)
    assert all(0 < range_.stop - range_.start <= range_bytes for range_ in planned.ranges)
    for range_ in planned.ranges:
        assert all(one.stop == two.start for one, two in itertools.pairwise(range_.spans))


@given(wishes(), st.integers(1000, 200_000), st.booleans())
def test_a_span_is_ready_with_its_last_range_and_not_before(
    wish: tuple[list[Span], int], range_bytes: int, all_of_it: bool
) -> None:
    wanted, size = wish
    planned = plan(wanted, size=size, range_bytes=range_bytes, all_of_it=all_of_it)
    for ranges in range(len(planned.ranges) + 1):
        there = placed(pieces(planned, ranges))
        for span in wanted[: planned.ready(ranges)]:
            assert placed([span]) <= there
    assert planned.ready(len(planned.ranges)) == len(wanted)
    for number, span in enumerate(wanted):
        if span.bytes:
            before = planned.complete_after[number] - 1
            had = sum(piece.part(span.start, span.stop).bytes for piece in pieces(planned, before)
                      if piece.start < span.stop and span.start < piece.stop)  # fmt: skip
            assert had < span.bytes


def test_spans_are_asked_for_in_the_wanted_order() -> None:
    wanted = [Span(600_000, 700_000, 0), Span(0, 100_000, 100_000), Span(300_000, 400_000, 200_000)]
    planned = plan(wanted, size=1_000_000, range_bytes=1_000_000, all_of_it=True)
    places = [(range_.start, range_.stop) for range_ in planned.ranges]
    gaps = [(100_000, 300_000), (400_000, 600_000), (700_000, 1_000_000)]
    assert places == [(span.start, span.stop) for span in wanted] + gaps


def test_padding_comes_along_with_its_neighbours() -> None:
    wanted = [Span(32, 1000, 0), Span(1024, 2000, 1024)]
    planned = plan(wanted, size=2000, range_bytes=1_000_000, all_of_it=True)
    assert [(range_.start, range_.stop) for range_ in planned.ranges] == [(32, 2000), (0, 32)]
    assert planned.complete_after == (1, 1)


def test_an_empty_file_needs_no_request() -> None:
    assert plan(whole(0), size=0, range_bytes=1, all_of_it=True) == Plan((), ())


@pytest.mark.parametrize(
    "spans",
    [
        [Span(0, 10, 0), Span(9, 20, 10)],
        [Span(90, 101, 0)],
        [Span(-1, 5, 0)],
        [Span(7, 5, 0)],
    ],
    ids=["overlap", "behind the end", "before the start", "backwards"],
)
def test_spans_that_cannot_be_are_refused(spans: list[Span]) -> None:
    with pytest.raises(ValueError, match="overlaps another, or is no part"):
        plan(spans, size=100, range_bytes=10, all_of_it=True)
