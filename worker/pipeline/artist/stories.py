"""What training is shown: stories, each of one character alone and in several settings."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from PIL import Image

from worker.pipeline.artist.characters import Character, Place, Setting, draw_character
from worker.pipeline.artist.drawings import SIZES, compose, compose_plain, draw_plain, draw_scene

SCENES = 4  # of a story; each may be another's reference
GROUPS = len(SIZES) ** 2  # stories of one group have pictures of the same sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One character, and the settings it is drawn in."""

    number: int
    seed: int
    character: Character
    settings: tuple[Setting, ...]

    @property
    def plain_size(self) -> tuple[int, int]:
        """The size of the picture that shows the character alone."""
        return SIZES[self.number // len(SIZES) % len(SIZES)]

    @property
    def scene_size(self) -> tuple[int, int]:
        """The size of the pictures that show it in settings."""
        return SIZES[self.number % len(SIZES)]

    def draw_plain(self) -> Image.Image:
        """Draw the character alone."""
        return draw_plain(self.character, self.plain_size, self._chance("plain"))

    def plain_place(self) -> Place:
        """Tell where the character stands alone."""
        return compose_plain(self.plain_size, self._chance("plain"))[1]

    def draw_scenes(self) -> Iterator[Image.Image]:
        """Draw the character in its settings, in their order."""
        for setting in self.settings:
            chance = self._chance(setting)
            yield draw_scene(self.character, setting, self.scene_size, chance)[0]

    def places(self) -> list[Place]:
        """Tell where the character stands in its settings, in their order."""
        return [compose(self.scene_size, self._chance(setting))[1] for setting in self.settings]

    def _chance(self, what: str) -> Random:
        return Random(f"{self.seed} {self.number} {what}")  # noqa: S311


def story(number: int, *, seed: int, held_out: bool = False) -> Story:
    """Tell the story of a number; the same seed and number give the same pictures."""
    chance = Random(f"{seed} {number} story {held_out}")  # noqa: S311
    character = draw_character(chance, held_out=held_out)
    settings = tuple(chance.sample(list(Setting), SCENES))
    return Story(number=number, seed=seed, character=character, settings=settings)
