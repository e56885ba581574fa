"""Draw Mia, the fox of the example story: python examples/make_mia.py writes examples/mia.png."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 256
CANVAS, SCALE = 384, 4  # the drawing has coordinates of its own; it is reduced for smooth edges
PAPER, OUTLINE = "#f6ead8", "#5b2f22"
FUR, CREAM, DARK = "#ef7f3b", "#fff4e4", "#33211f"
SCARF, STRIPE, BLUSH, SHADOW = "#2f7f86", "#f3c64d", "#f7a58d", "#e6d6bf"

Box = Sequence[float]


def main() -> None:
    """Write the picture beside this script."""
    draw_mia().save(Path(__file__).with_name("mia.png"), optimize=True)


def draw_mia() -> Image.Image:
    """Draw Mia sitting on plain paper, facing us."""
    large = Image.new("RGB", (CANVAS * SCALE, CANVAS * SCALE), PAPER)
    brush = Brush(large)
    brush.oval((88, 338, 312, 366), SHADOW, line=0)
    _tail(brush)
    _body(brush)
    _ears(brush)
    _head(brush)
    return large.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


class Brush:
    """Draws outlined shapes, in the coordinates of the canvas."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def oval(self, box: Box, fill: str, line: float = 4) -> None:
        """Fill an oval inside a box."""
        self._draw.ellipse(_scaled(box), fill, OUTLINE, round(line * SCALE))

    def shape(self, points: Box, fill: str, line: float = 4) -> None:
        """Fill a polygon, with round corners as wide as its outline."""
        around = [*points, *points[:4]]
        self._draw.polygon(_scaled(points), fill)
        if line:
            self._draw.line(_scaled(around), OUTLINE, round(line * SCALE), joint="curve")

    def arc(self, box: Box, start: float, end: float, width: float = 3.5) -> None:
        """Draw a part of an oval's outline, by degrees."""
        self._draw.arc(_scaled(box), start, end, OUTLINE, round(width * SCALE))


def _tail(brush: Brush) -> None:
    brush.oval((222, 218, 338, 342), FUR)
    brush.oval((282, 206, 342, 272), CREAM)


def _body(brush: Brush) -> None:
    brush.oval((116, 208, 264, 356), FUR)
    brush.oval((152, 252, 228, 352), CREAM, line=0)
    for left in (126, 202):
        brush.oval((left, 324, left + 54, 360), DARK)


def _ears(brush: Brush) -> None:
    for outer, inner in (
        ((84, 40, 170, 92, 88, 158), (98, 66, 138, 94, 104, 128)),
        ((296, 40, 210, 92, 292, 158), (282, 66, 242, 94, 276, 128)),
    ):
        brush.shape(outer, FUR)
        brush.shape(inner, DARK, line=0)


def _head(brush: Brush) -> None:
    brush.oval((70, 76, 310, 240), FUR)
    brush.oval((76, 146, 196, 236), CREAM, line=0)
    brush.oval((184, 146, 304, 236), CREAM, line=0)
    for left in (92, 252):
        brush.oval((left, 176, left + 36, 198), BLUSH, line=0)
    for left in (122, 220):
        brush.oval((left, 124, left + 38, 172), DARK, line=0)
        brush.oval((left + 7, 131, left + 21, 147), "white", line=0)
        brush.oval((left + 20, 153, left + 28, 162), "white", line=0)
    brush.oval((174, 170, 206, 190), DARK, line=0)
    brush.arc((154, 176, 190, 206), 20, 160)
    brush.arc((190, 176, 226, 206), 20, 160)
    brush.shape((112, 226, 268, 226, 254, 256, 126, 256), SCARF)
    brush.shape((214, 244, 250, 244, 258, 312, 224, 316), SCARF)
    brush.shape((222, 286, 255, 284, 257, 298, 223, 301), STRIPE, line=0)


def _scaled(numbers: Box) -> list[float]:
    return [number * SCALE for number in numbers]


if __name__ == "__main__":
    main()
