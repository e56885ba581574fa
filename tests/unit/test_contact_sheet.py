"""The contact sheet: a bounded grid, one small picture at a time, empty places with their names."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from api.contact_sheet import (
    CELL_HEIGHT,
    CELL_WIDTH,
    EMPTY,
    MARGIN,
    MOST_CELLS,
    PAPER,
    PICTURE,
    Cell,
    draw_sheet,
)
from shared.errors import ArtifactDamaged, ArtifactNotFound
from shared.vocabulary import Status
from tests.builders import a_job, an_image


class Shelf:
    """Artifacts in memory; raises what stands in the place of bytes."""

    def __init__(self, *contents: Any) -> None:
        self._contents: Iterator[Any] = iter(contents)

    def get(self, name: str, generation: int) -> bytes:
        content = next(self._contents)
        if isinstance(content, bytes):
            return content
        raise content


def a_drawing(colour: str, size: tuple[int, int] = (640, 320), format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def drawn(key: str = "p1") -> Cell:
    return Cell(key=key, status=Status.SUCCEEDED, image=an_image(a_job()))


def sheet_of(cells: list[Cell], *contents: Any) -> Image.Image:
    return Image.open(io.BytesIO(draw_sheet(cells, Shelf(*contents)))).convert("RGB")  # type: ignore[arg-type]


def middle(sheet: Image.Image, column: int = 0, row: int = 0) -> Any:
    x = column * CELL_WIDTH + MARGIN + PICTURE // 2
    return sheet.getpixel((x, row * CELL_HEIGHT + MARGIN + PICTURE // 2))


def rgb(colour: str) -> Any:
    return Image.new("RGB", (1, 1), colour).getpixel((0, 0))


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (MOST_CELLS, 15, 14)]
)
def test_the_grid_is_about_as_wide_as_it_is_high(count: int, columns: int, rows: int) -> None:
    cells = [Cell(key=f"p{i}", status=None, image=None) for i in range(count)]
    assert sheet_of(cells).size == (columns * CELL_WIDTH, rows * CELL_HEIGHT)


@pytest.mark.parametrize("count", [0, MOST_CELLS + 1])
def test_a_sheet_is_bounded(count: int) -> None:
    with pytest.raises(AssertionError):
        sheet_of([Cell(key="p", status=None, image=None)] * count)


def test_pictures_stand_in_order_and_keep_their_shape() -> None:
    colours = ["red", "lime", "blue"]
    sheet = sheet_of([drawn() for _ in colours], *map(a_drawing, colours))
    assert [middle(sheet, *place) for place in ((0, 0), (1, 0), (0, 1))] == list(map(rgb, colours))
    above = (MARGIN + PICTURE // 2, MARGIN + PICTURE // 4 - 2)
    assert sheet.getpixel(above) == rgb(PAPER), "twice as wide as high: paper above it"


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_every_format_is_shown(format: str) -> None:
    red, green, blue = middle(sheet_of([drawn()], a_drawing("red", format=format)))
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize(
    "content",
    [ArtifactNotFound("gone"), ArtifactDamaged("bad"), b"no image", a_drawing("red")[:-40]],
)
def test_a_picture_that_cannot_be_shown_leaves_its_place_empty(content: Any) -> None:
    sheet = sheet_of([drawn(), drawn()], content, a_drawing("lime"))
    assert (middle(sheet), middle(sheet, 1)) == (rgb(EMPTY), rgb("lime"))


def captions(sheet: Image.Image) -> bytes:
    box = (0, MARGIN + PICTURE, CELL_WIDTH, CELL_HEIGHT)
    return sheet.crop(box).tobytes()


def test_below_each_place_stand_key_and_status() -> None:
    def caption(key: str, status: Status | None) -> bytes:
        return captions(sheet_of([Cell(key=key, status=status, image=None)]))

    told = {
        caption("p1", Status.FAILED),
        caption("p2", Status.FAILED),
        caption("p1", Status.QUEUED),
        caption("p1", None),
    }
    assert len(told) == 4


def test_a_long_key_stays_within_its_place() -> None:
    cells = [Cell(key=key * 64, status=None, image=None) for key in ("W", "a")]
    sheet = sheet_of(cells)
    margin = sheet.crop((CELL_WIDTH - MARGIN, 0, CELL_WIDTH, CELL_HEIGHT))
    assert margin.getcolors() == [(margin.width * margin.height, rgb(PAPER))]
