"""A pencil that draws several times larger than wanted, so that edges come out smooth."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from worker.pipeline.artist.characters import Colour

LARGER = 4
Point = tuple[float, float]


class Pencil:
    """Draws on one picture; all coordinates are pixels of the picture that `picture` gives."""

    def __init__(self, size: tuple[int, int], top: Colour, bottom: Colour) -> None:
        """Begin with a ground that shades from top to bottom."""
        self.width, self.height = size
        large = (LARGER * self.width, LARGER * self.height)
        shade = Image.linear_gradient("L").resize((1, large[1])).resize(large)
        self._image = Image.composite(
            Image.new("RGB", large, bottom), Image.new("RGB", large, top), shade
        )
        self._draw = ImageDraw.Draw(self._image)

    def picture(self) -> Image.Image:
        """Give the picture in the size that was asked for."""
        return self._image.reduce(LARGER)

    def disc(
        self,
        centre: Point,
        radius: float | Point,
        fill: Colour,
        *,
        outline: Colour | None = None,
        line: float = 0,
    ) -> None:
        """Draw a disc, or an oval of two radii."""
        across, down = radius if isinstance(radius, tuple) else (radius, radius)
        x, y = centre
        box = self._large([(x - across, y - down), (x + across, y + down)])
        self._draw.ellipse(box, fill=fill, outline=outline, width=self._line(line))

    def box(
        self,
        corner: Point,
        opposite: Point,
        fill: Colour,
        *,
        rounded: float = 0,
        outline: Colour | None = None,
        line: float = 0,
    ) -> None:
        """Draw a box with corners as round as wanted."""
        self._draw.rounded_rectangle(
            self._large([corner, opposite]),
            radius=LARGER * rounded,
            fill=fill,
            outline=outline,
            width=self._line(line),
        )

    def polygon(
        self,
        points: Sequence[Point],
        fill: Colour,
        *,
        outline: Colour | None = None,
        line: float = 0,
    ) -> None:
        """Draw a closed figure, its corners rounded by the line around it."""
        self._draw.polygon(self._large(points), fill=fill)
        if outline is not None:
            self.stroke([*points, points[0], points[1]], outline, line)

    def stroke(self, points: Sequence[Point], colour: Colour, line: float) -> None:
        """Draw a line through points."""
        self._draw.line(self._large(points), fill=colour, width=self._line(line), joint="curve")

    def arc(self, centre: Point, radius: float, span: Point, colour: Colour, line: float) -> None:
        """Draw a part of a circle, from one angle to another in degrees, clockwise from east."""
        x, y = centre
        box = self._large([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.arc(box, *span, fill=colour, width=self._line(line))

    def _large(self, points: Sequence[Point]) -> list[Point]:
        return [(LARGER * x, LARGER * y) for x, y in points]

    def _line(self, line: float) -> int:
        return round(LARGER * line)


def ring(centre: Point, radii: Sequence[float], *, first: float = -90) -> list[Point]:
    """Points around a centre, at equal angles and at the distances given."""
    x, y = centre
    turns = [math.radians(first + 360 * index / len(radii)) for index in range(len(radii))]
    return [
        (x + radius * math.cos(turn), y + radius * math.sin(turn))
        for radius, turn in zip(radii, turns, strict=True)
    ]
