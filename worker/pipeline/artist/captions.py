"""Say what a picture shows, in a small grammar whose words and order vary."""

from functools import cache
from random import Random

from worker.pipeline.artist.characters import NAMED_HUES, Character, Eyes, Hat, Setting, Shape

TEXT_TOKENS = 32  # what T5 reads of a caption, padding included: longer ones are cut
_STRANGE = 0.15  # how often words are thrown in that mean nothing here
_LOOK_BESIDE_REFERENCE = 0.1  # how often the look is said although a reference shows it

_DARK = ("at night", "by night", "under the moon", "under the stars", "in the dark", "in moonlight")
_DAY_PLACES: dict[Setting, tuple[str, ...]] = {
    Setting.FOREST: (
        "in the forest", "in the woods", "among the trees", "in a deep forest", "between trees",
        "under the fir trees",
    ),
    Setting.SEA: (
        "at the sea", "by the sea", "in the sea", "in the ocean", "in the waves", "on the water",
        "swimming in the sea", "on a blue sea",
    ),
    Setting.DESERT: (
        "in the desert", "in a hot desert", "on the sand", "beside a cactus", "near the cactus",
        "in the dunes",
    ),
    Setting.SNOW: (
        "in the snow", "on a snowy day", "in winter", "on a white field of snow",
        "in the falling snow", "on the ice",
    ),
}  # fmt: skip
_PLACES: dict[Setting, tuple[str, ...]] = _DAY_PLACES | {
    Setting.MEADOW: (
        "in a meadow", "on the meadow", "in the grass", "on green grass", "in a sunny meadow",
        "among flowers", "in the garden", "on a green hill", "in the park",
    ),
    Setting.RAIN: (
        "in the rain", "on a rainy day", "in a storm", "under dark clouds", "in bad weather",
        "under rain clouds", "in the pouring rain",
    ),
    Setting.ROOM: (
        "in a room", "in the room", "at home", "indoors", "in the house", "beside the window",
        "on the rug", "in the kitchen",
    ),
}  # fmt: skip
_NIGHTS = {
    Setting.FOREST_NIGHT: Setting.FOREST,
    Setting.SEA_NIGHT: Setting.SEA,
    Setting.DESERT_NIGHT: Setting.DESERT,
    Setting.SNOW_NIGHT: Setting.SNOW,
}
_SUBJECTS = (
    "the character", "the same character", "this character", "our friend", "the little one",
    "the creature", "the hero", "it", "he", "she", "somebody",
)  # fmt: skip
_VERBS = ("is", "stands", "waits", "walks", "plays", "sits", "smiles", "rests", "goes", "")
_OPENINGS = ("", "", "", "draw", "a picture of", "show", "an illustration of")
_THINGS = ("creature", "character", "one", "friend")
_SHAPES = {
    Shape.ROUND: ("round", "ball shaped", "circle shaped"),
    Shape.SQUARE: ("square", "box shaped"),
    Shape.TRIANGLE: ("triangle shaped", "pointed triangle"),
    Shape.STAR: ("star shaped", "star like"),
}
_HATS = {
    Hat.NONE: ("no hat", "a bare head"),
    Hat.TOP_HAT: ("a top hat", "a black top hat", "a black hat"),
    Hat.CAP: ("a cap", "a red cap", "a red hat"),
    Hat.POINTED: ("a pointed hat", "a blue pointed hat", "a blue hat"),
    Hat.CROWN: ("a crown", "a golden crown", "a yellow crown"),
}
_EYES = {Eyes.ONE: ("one eye", "a single eye"), Eyes.TWO: ("two eyes", "a pair of eyes")}
_SMALL = "and with , . ! - a an of the"


def draw_caption(
    character: Character, setting: Setting, chance: Random, *, referenced: bool
) -> str:
    """Say where somebody is; how they look mostly where no reference shows it."""
    looked = not referenced or chance.random() < _LOOK_BESIDE_REFERENCE
    subject = describe(character, chance) if looked else chance.choice(_SUBJECTS)
    if referenced and chance.random() < _STRANGE:
        subject = _strange(chance)
    place = say_setting(setting, chance)
    verb = chance.choice(_VERBS)
    if chance.random() < 0.3:
        words = [f"{place},", subject, verb]
    else:
        words = [chance.choice(_OPENINGS), subject, verb, place]
    if referenced and chance.random() < _STRANGE:
        words += [",", _strange(chance), _strange(chance)]
    return " ".join(word for word in words if word).replace(" ,", ",")


def describe(character: Character, chance: Random) -> str:
    """Say how somebody looks, in words."""
    adjectives = [character.hue_name, chance.choice(_SHAPES[character.shape])]
    chance.shuffle(adjectives)
    parts = [chance.choice(_HATS[character.hat]), chance.choice(_EYES[character.eyes])]
    chance.shuffle(parts)
    return f"a {' '.join(adjectives)} {chance.choice(_THINGS)} with {' and '.join(parts)}"


def say_setting(setting: Setting, chance: Random) -> str:
    """Name a setting by one of its synonyms, a dark one by two in any order."""
    if setting is Setting.NIGHT:
        meadow = chance.random() < 0.3
        parts = [chance.choice(_DARK), *(["in a meadow"] if meadow else [])]
    elif setting in _NIGHTS:
        parts = [chance.choice(_DAY_PLACES[_NIGHTS[setting]]), chance.choice(_DARK)]
    else:
        return chance.choice(_PLACES[setting])
    chance.shuffle(parts)
    return " ".join(parts)


@cache
def vocabulary() -> tuple[str, ...]:
    """List every word of the grammar, in alphabetical order."""
    groups = [
        _DARK, *_PLACES.values(), _SUBJECTS, _VERBS, _OPENINGS, _THINGS, *_SHAPES.values(),
        *_HATS.values(), *_EYES.values(), tuple(NAMED_HUES.values()), (_SMALL,),
    ]  # fmt: skip
    return tuple(sorted({word for group in groups for text in group for word in text.split()}))


def _strange(chance: Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(chance.choice(letters) for _ in range(chance.randint(2, 9)))
