"""Who is drawn and where: characters, settings, places and sizes, each drawn from chance."""

import colorsys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TypeVar

Colour = tuple[int, int, int]
Kind = TypeVar("Kind", bound=StrEnum)

HUE_SECTOR = 15  # degrees: characters of one sector count as one when some are held out
HELD_OUT_ONE_IN = 8
SATURATION, BRIGHTNESS = 0.68, 0.94
# The hues that captions have a name for; between them the nearest name is said.
NAMED_HUES = {
    0: "red", 28: "orange", 52: "yellow", 115: "green", 172: "turquoise", 215: "blue",
    270: "purple", 322: "pink",
}  # fmt: skip


class Shape(StrEnum):
    """The outline of a body."""

    ROUND = "round"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"


class Hat(StrEnum):
    """What is worn; each has a form and a colour of its own."""

    NONE = "none"
    TOP_HAT = "top hat"
    CAP = "cap"
    POINTED = "pointed hat"
    CROWN = "crown"


class Eyes(StrEnum):
    """How many eyes."""

    ONE = "one"
    TWO = "two"


class Setting(StrEnum):
    """Where a character may be."""

    MEADOW = "meadow"
    NIGHT = "night"
    SEA = "sea"
    FOREST = "forest"
    DESERT = "desert"
    RAIN = "rain"
    SNOW = "snow"
    ROOM = "room"
    FOREST_NIGHT = "forest at night"
    SEA_NIGHT = "sea at night"
    DESERT_NIGHT = "desert at night"
    SNOW_NIGHT = "snow at night"


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """How somebody looks, wherever they are; `hue` is in degrees."""

    hue: float
    shape: Shape
    hat: Hat
    eyes: Eyes

    @property
    def colour(self) -> Colour:
        """The body's colour."""
        return colour_of(self.hue)

    @property
    def hue_name(self) -> str:
        """The nearest name of its hue."""
        return NAMED_HUES[min(NAMED_HUES, key=lambda named: hue_distance(named, self.hue))]

    @property
    def held_out(self) -> bool:
        """Whether training never shows this combination, so that it can be asked for later."""
        sector = int(self.hue % 360 // HUE_SECTOR)
        named = f"{sector} {self.shape} {self.hat} {self.eyes}"
        return zlib.crc32(named.encode()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a character's feet stand and how tall its body is, in pixels of the picture."""

    x: float
    y: float
    size: float


def colour_of(hue: float, *, brightness: float = BRIGHTNESS) -> Colour:
    """The colour of a hue, in bytes."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, SATURATION, brightness)
    return round(red * 255), round(green * 255), round(blue * 255)


def hue_distance(one: float, other: float) -> float:
    """How far two hues are from each other on the circle, 0 to 180 degrees."""
    return abs((one - other + 180) % 360 - 180)


def draw_character(chance: Random, *, held_out: bool = False) -> Character:
    """Choose a character among those that are held out, or among the others."""
    while True:
        character = Character(
            hue=chance.uniform(0, 360),
            shape=pick(chance, list(Shape)),
            hat=pick(chance, list(Hat)),
            eyes=pick(chance, list(Eyes)),
        )
        if character.held_out is held_out:
            return character


def pick(chance: Random, choices: Sequence[Kind]) -> Kind:
    """Choose one of a few, each as likely."""
    return choices[chance.randrange(len(choices))]


def scene_place(chance: Random, size: tuple[int, int], horizon: float) -> Place:
    """Choose where somebody stands below the horizon, whole inside the picture."""
    width, height = size
    tall = chance.uniform(0.42, 0.58) * min(width, height)
    reach = 0.6 * tall
    return Place(
        x=chance.uniform(reach, width - reach),
        y=chance.uniform(max(horizon * height + 4, 1.45 * tall), 0.97 * height),
        size=tall,
    )


def plain_place(chance: Random, size: tuple[int, int]) -> Place:
    """Choose where somebody stands on a plain ground: near the middle, and large."""
    width, height = size
    tall = chance.uniform(0.46, 0.6) * min(width, height)
    return Place(
        x=width / 2 + chance.uniform(-0.06, 0.06) * width,
        y=height / 2 + 0.68 * tall + chance.uniform(-0.03, 0.03) * height,
        size=tall,
    )
