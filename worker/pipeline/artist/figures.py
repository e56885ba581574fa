"""Draw a character where it stands: body, feet, eyes, mouth and hat."""

from worker.pipeline.artist.characters import Character, Colour, Eyes, Hat, Place, Shape, colour_of
from worker.pipeline.artist.pencil import Pencil, Point, ring

INK: Colour = (28, 26, 38)
WHITE: Colour = (252, 252, 250)
HAT_COLOURS: dict[Hat, Colour] = {
    Hat.TOP_HAT: (74, 70, 86),
    Hat.CAP: (214, 52, 48),
    Hat.POINTED: (62, 88, 214),
    Hat.CROWN: (250, 202, 44),
}
BAND: Colour = (238, 234, 222)  # of a top hat, without which the night would swallow it
OUTLINE = 0.045  # of the body's height
# How high above the feet each body ends, and where its eyes are, in body heights.
_TOPS = {Shape.ROUND: 1.0, Shape.SQUARE: 0.96, Shape.TRIANGLE: 0.93, Shape.STAR: 0.93}
_EYES = {Shape.ROUND: 0.6, Shape.SQUARE: 0.6, Shape.TRIANGLE: 0.44, Shape.STAR: 0.57}


def draw_figure(pencil: Pencil, character: Character, place: Place) -> None:
    """Draw a character over what is there already."""
    dark = colour_of(character.hue, brightness=0.42)
    _feet(pencil, place, dark)
    _body(pencil, character, place, dark)
    _face(pencil, character, place)
    _hat(pencil, character, place)


def _at(place: Place, across: float, up: float) -> Point:
    return place.x + across * place.size, place.y - up * place.size


def _feet(pencil: Pencil, place: Place, dark: Colour) -> None:
    for side in (-0.19, 0.19):
        pencil.disc(_at(place, side, 0.06), (0.13 * place.size, 0.07 * place.size), dark)


def _body(pencil: Pencil, character: Character, place: Place, dark: Colour) -> None:
    size, colour, line = place.size, character.colour, OUTLINE * place.size
    if character.shape is Shape.ROUND:
        pencil.disc(_at(place, 0, 0.54), 0.46 * size, colour, outline=dark, line=line)
    elif character.shape is Shape.SQUARE:
        corners = _at(place, -0.43, 0.95), _at(place, 0.43, 0.09)
        pencil.box(*corners, colour, rounded=0.08 * size, outline=dark, line=line)
    elif character.shape is Shape.TRIANGLE:
        points = [_at(place, 0, 1.06), _at(place, 0.54, 0.1), _at(place, -0.54, 0.1)]
        pencil.polygon(points, colour, outline=dark, line=line)
    else:
        points = ring(_at(place, 0, 0.52), [0.58 * size, 0.31 * size] * 5)
        pencil.polygon(points, colour, outline=dark, line=line)


def _face(pencil: Pencil, character: Character, place: Place) -> None:
    up, size = _EYES[character.shape], place.size
    if character.eyes is Eyes.ONE:
        eyes, radius = [0.0], 0.17
    else:
        eyes, radius = [-0.145, 0.145], 0.115
    for across in eyes:
        pencil.disc(_at(place, across, up), radius * size, WHITE, outline=INK, line=0.02 * size)
        pencil.disc(_at(place, across, up - 0.02), 0.55 * radius * size, INK)
    pencil.arc(_at(place, 0, up - 0.15), 0.12 * size, (30, 150), INK, 0.035 * size)


def _hat(pencil: Pencil, character: Character, place: Place) -> None:
    if character.hat is Hat.NONE:
        return
    size, colour, top = place.size, HAT_COLOURS[character.hat], _TOPS[character.shape] - 0.1
    line = 0.03 * size

    def at(across: float, up: float) -> Point:
        return _at(place, across, top + up)

    if character.hat is Hat.TOP_HAT:
        pencil.box(at(-0.19, 0.42), at(0.19, 0.04), colour, outline=INK, line=line)
        pencil.box(at(-0.19, 0.2), at(0.19, 0.09), BAND, outline=INK, line=line)
        pencil.box(at(-0.33, 0.09), at(0.33, 0.0), colour, outline=INK, line=line)
    elif character.hat is Hat.CAP:
        dome = ring(at(0, 0.03), [0.26 * size] * 40, first=180)[:21]
        pencil.polygon(dome, colour, outline=INK, line=line)
        pencil.box(at(0.0, 0.08), at(0.46, -0.01), colour, outline=INK, line=line)
    elif character.hat is Hat.POINTED:
        pencil.polygon([at(0, 0.52), at(0.27, 0), at(-0.27, 0)], colour, outline=INK, line=line)
    else:
        zigzag = [at(-0.27, 0), at(-0.3, 0.34), at(-0.13, 0.2), at(0, 0.38), at(0.13, 0.2)]
        pencil.polygon([*zigzag, at(0.3, 0.34), at(0.27, 0)], colour, outline=INK, line=line)
