"""Draw pictures: a character on a plain pale ground, or in a setting."""

from random import Random

from PIL import Image

from worker.pipeline.artist.backgrounds import HORIZON, View, begin_background
from worker.pipeline.artist.characters import (
    Character,
    Colour,
    Place,
    Setting,
    plain_place,
    scene_place,
)
from worker.pipeline.artist.figures import draw_figure
from worker.pipeline.artist.pencil import Pencil

SIZES = ((128, 128), (160, 128), (128, 160))  # width and height, in multiples of a token's side
_PALE = (226, 246)  # the brightness of each channel of a plain ground


def draw_plain(character: Character, size: tuple[int, int], chance: Random) -> Image.Image:
    """Draw a character alone, as references show it."""
    ground, place = compose_plain(size, chance)
    pencil = Pencil(size, ground, ground)
    draw_figure(pencil, character, place)
    return pencil.picture()


def draw_scene(
    character: Character, setting: Setting, size: tuple[int, int], chance: Random
) -> tuple[Image.Image, Place]:
    """Draw a character in a setting, and tell where it stands."""
    view, place = compose(size, chance)
    pencil = begin_background(setting, size, view)
    draw_figure(pencil, character, place)
    return pencil.picture(), place


def compose_plain(size: tuple[int, int], chance: Random) -> tuple[Colour, Place]:
    """Choose a plain ground, and where somebody stands on it."""
    red, green, blue = (chance.randint(*_PALE) for _ in range(3))
    return (red, green, blue), plain_place(chance, size)


def compose(size: tuple[int, int], chance: Random) -> tuple[View, Place]:
    """Choose what of a scene is left to chance: the view, and where somebody stands in it."""
    view = View(
        mirrored=chance.random() < 0.5,
        horizon=HORIZON + chance.uniform(-0.04, 0.04),
        shift=chance.random(),
    )
    return view, scene_place(chance, size, view.horizon)
