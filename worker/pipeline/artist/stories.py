"""What training is shown: stories, each of one character alone and in several settings.

Small stories have pictures half as wide and high: who is drawn is learned sooner from fewer parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from PIL import Image

from worker.pipeline.artist.characters import Character, Place, Setting, draw_character
from worker.pipeline.artist.drawings import SIZES, compose, draw_plain, draw_scene

SCENES = 4  # of a story; each may be another's reference
GROUPS = len(SIZES) ** 2  # stories of one group have pictures of the same sizes
HALF = 2  # how many times a small story's pictures are narrower and lower


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One character, and the settings it is drawn in."""

    number: int
    seed: int
    character: Character
    settings: tuple[Setting, ...]
    small: bool = False

    @property
    def plain_size(self) -> tuple[int, int]:
        """The size of the picture that shows the character alone."""
        return self._reduced(SIZES[self.number // len(SIZES) % len(SIZES)])

    @property
    def scene_size(self) -> tuple[int, int]:
        """The size of the pictures that show it in settings."""
        return self._reduced(SIZES[self.number % len(SIZES)])

    def draw_plain(self) -> Image.Image:
        """Draw the character alone."""
        chance = self._chance("plain")
        return draw_plain(self.character, self._drawn(self.plain_size), chance).reduce(self.times)

    def draw_scenes(self) -> Iterator[Image.Image]:
        """Draw the character in its settings, in their order."""
        size = self._drawn(self.scene_size)
        for setting in self.settings:
            picture, _ = draw_scene(self.character, setting, size, self._chance(setting))
            yield picture.reduce(self.times)

    def places(self) -> list[Place]:
        """Tell where the character stands in its settings, in their order."""
        size = self._drawn(self.scene_size)
        found = [compose(size, self._chance(setting))[1] for setting in self.settings]
        return [each.reduced(self.times) for each in found]

    @property
    def times(self) -> int:
        """How many times its pictures are narrower and lower than usual ones."""
        return HALF if self.small else 1

    def _reduced(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self.times, size[1] // self.times

    def _drawn(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] * self.times, size[1] * self.times

    def _chance(self, what: str) -> Random:
        return Random(f"{self.seed} {self.number} {what}")  # noqa: S311


def story(number: int, *, seed: int, held_out: bool = False, small: bool = False) -> Story:
    """Tell the story of a number; the same seed and number give the same pictures."""
    chance = Random(f"{seed} {number} story {held_out}")  # noqa: S311
    character = draw_character(chance, held_out=held_out)
    settings = tuple(chance.sample(list(Setting), SCENES))
    return Story(number=number, seed=seed, character=character, settings=settings, small=small)
