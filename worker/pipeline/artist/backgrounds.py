"""Draw the settings, in forms so large and so regular that a small model can learn them."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.pipeline.artist.characters import Colour, Setting
from worker.pipeline.artist.pencil import Pencil

HORIZON = 0.6  # of the height; jittered by chance
SUN: Colour = (255, 214, 64)
PALE: Colour = (255, 244, 206)
WHITE: Colour = (250, 251, 253)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What chance decides of a background: mirrored or not, where the horizon is, and a shift."""

    mirrored: bool
    horizon: float
    shift: float  # 0 to 1, of what repeats


Paint = Callable[[Pencil, View], None]


def begin_background(setting: Setting, size: tuple[int, int], view: View) -> Pencil:
    """Draw a setting with nobody in it."""
    top, bottom, ground, paints = _SETTINGS[setting]
    pencil = Pencil(size, top, bottom)
    for paint in paints[0]:
        paint(pencil, view)
    pencil.box((0, view.horizon * size[1]), size, ground)
    for paint in paints[1]:
        paint(pencil, view)
    return pencil


def _across(pencil: Pencil, view: View, part: float) -> float:
    return pencil.width * (1 - part if view.mirrored else part)


def _sun(colour: Colour) -> Paint:
    def paint(pencil: Pencil, view: View) -> None:
        pencil.disc((_across(pencil, view, 0.82), 0.16 * pencil.height), 12, colour)

    return paint


def _moon(pencil: Pencil, view: View) -> None:
    x, y = _across(pencil, view, 0.82), 0.17 * pencil.height
    pencil.disc((x, y), 12, PALE)
    pencil.disc((x - 6, y - 3), 10.5, (20, 21, 62))


def _stars(pencil: Pencil, view: View) -> None:
    for across, down in ((0.08, 0.1), (0.22, 0.28), (0.38, 0.09), (0.54, 0.24), (0.66, 0.08)):
        pencil.disc((_across(pencil, view, across), down * pencil.height), 1.7, PALE)


def _cloud(pencil: Pencil, view: View) -> None:
    x, y = _across(pencil, view, 0.27), 0.19 * pencil.height
    for across, down, radius in ((-11, 2, 7), (0, -2, 10), (12, 2, 7.5)):
        pencil.disc((x + across, y + down), radius, WHITE)


def _storm(pencil: Pencil, view: View) -> None:
    first = -24 * view.shift
    for index in range(9):
        x = first + 24 * index
        pencil.disc((x, 8 + 4 * (index % 2)), (17, 13), (66, 70, 84))


def _lattice(pencil: Pencil, view: View, across: int, down: int) -> list[tuple[float, float]]:
    """Points that repeat over the whole picture, every second row moved by half."""
    return [
        ((column + view.shift + (row % 2) / 2) * across - across / 2, (row + 0.5) * down)
        for row in range(pencil.height // down + 1)
        for column in range(pencil.width // across + 2)
    ]


def _below(
    pencil: Pencil, view: View, points: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y > view.horizon * pencil.height + 5]


def _drops(pencil: Pencil, view: View) -> None:
    for x, y in _lattice(pencil, view, 22, 20):
        pencil.stroke([(x + 3, y - 6), (x - 3, y + 6)], (196, 214, 236), 2)


def _flakes(pencil: Pencil, view: View) -> None:
    for x, y in _lattice(pencil, view, 26, 22):
        pencil.disc((x, y), 3, WHITE)


def _flowers(pencil: Pencil, view: View) -> None:
    for index, (x, y) in enumerate(_below(pencil, view, _lattice(pencil, view, 30, 15))):
        pencil.disc((x, y), 2.6, (WHITE, (255, 226, 90))[index % 2])


def _waves(colour: Colour) -> Paint:
    def paint(pencil: Pencil, view: View) -> None:
        for x, y in _below(pencil, view, _lattice(pencil, view, 28, 14)):
            pencil.arc((x - 5, y - 3), 6, (20, 160), colour, 2)
            pencil.arc((x + 6, y - 3), 6, (20, 160), colour, 2)

    return paint


def _trees(leaves: Colour, trunk: Colour) -> Paint:
    def paint(pencil: Pencil, view: View) -> None:
        ground = view.horizon * pencil.height
        for index in range(9):
            x = (index - view.shift) * 25
            tip = ground - (50 if index % 2 else 62)
            pencil.box((x - 3, ground - 12), (x + 3, ground + 3), trunk)
            pencil.polygon([(x, tip), (x + 14, ground - 8), (x - 14, ground - 8)], leaves)

    return paint


def _cactus(colour: Colour) -> Paint:
    def paint(pencil: Pencil, view: View) -> None:
        x, y = _across(pencil, view, 0.16), view.horizon * pencil.height + 8
        pencil.box((x - 5, y - 42), (x + 5, y), colour, rounded=5)
        for side, up in ((-1, 14), (1, 20)):
            inner, outer = x + 3 * side, x + 15 * side
            pencil.box(
                (min(inner, outer), y - up - 6), (max(inner, outer), y - up), colour, rounded=3
            )
            ends = sorted((x + 10 * side, x + 16 * side))
            pencil.box((ends[0], y - up - 18), (ends[1], y - up), colour, rounded=3)

    return paint


def _puddles(pencil: Pencil, view: View) -> None:
    for across, down in ((0.22, 0.25), (0.7, 0.5), (0.3, 0.8)):
        y = pencil.height * (view.horizon + (1 - view.horizon) * down)
        pencil.disc((_across(pencil, view, across), y), (17, 4.5), (128, 150, 172))


def _window(pencil: Pencil, view: View) -> None:
    x, y = _across(pencil, view, 0.26), 0.26 * pencil.height
    pencil.box((x - 19, y - 19), (x + 19, y + 19), WHITE)
    pencil.box((x - 15, y - 15), (x + 15, y + 15), (140, 200, 246))
    pencil.box((x - 2, y - 15), (x + 2, y + 15), WHITE)
    pencil.box((x - 15, y - 2), (x + 15, y + 2), WHITE)


def _rug(pencil: Pencil, view: View) -> None:
    y = pencil.height * (view.horizon + 1) / 2
    radii = (0.4 * pencil.width, 0.3 * (1 - view.horizon) * pencil.height)
    pencil.disc((pencil.width / 2, y), radii, (190, 62, 70), outline=(236, 190, 120), line=2.5)


_DAY: tuple[Colour, Colour] = (112, 186, 250), (214, 238, 255)
_DARK: tuple[Colour, Colour] = (14, 15, 48), (44, 42, 112)
# Sky above and below, the ground, and what is painted before the ground and after it.
_SETTINGS: dict[Setting, tuple[Colour, Colour, Colour, tuple[tuple[Paint, ...], ...]]] = {
    Setting.MEADOW: (*_DAY, (112, 192, 84), ((_sun(SUN), _cloud), (_flowers,))),
    Setting.NIGHT: (*_DARK, (28, 84, 66), ((_moon, _stars), ())),
    Setting.SEA: (*_DAY, (30, 112, 204), ((_sun(SUN), _cloud), (_waves((206, 232, 252)),))),
    Setting.FOREST: (
        (176, 216, 196), (214, 234, 214), (92, 146, 72),
        ((_trees((28, 106, 58), (104, 70, 44)),), ()),
    ),
    Setting.DESERT: (
        (255, 190, 110), (255, 234, 190), (226, 180, 98),
        ((_sun(PALE),), (_cactus((62, 148, 72)),)),
    ),
    Setting.RAIN: (
        (116, 124, 140), (158, 166, 178), (84, 104, 92), ((_storm,), (_puddles, _drops)),
    ),
    Setting.SNOW: ((150, 178, 216), (188, 206, 230), (240, 244, 250), ((_flakes,), ())),
    Setting.ROOM: ((244, 214, 178), (236, 200, 160), (148, 94, 60), ((_window,), (_rug,))),
    Setting.FOREST_NIGHT: (
        *_DARK, (36, 60, 40), ((_moon, _trees((22, 84, 70), (58, 44, 50))), ()),
    ),
    Setting.SEA_NIGHT: (*_DARK, (24, 56, 136), ((_moon, _stars), (_waves((128, 164, 226)),))),
    Setting.DESERT_NIGHT: (
        *_DARK, (146, 112, 84), ((_moon, _stars), (_cactus((64, 132, 84)),)),
    ),
    Setting.SNOW_NIGHT: (*_DARK, (186, 198, 226), ((_moon, _flakes), ())),
}  # fmt: skip
