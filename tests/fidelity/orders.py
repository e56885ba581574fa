"""What is asked of the artist to measure it: characters it was never taught, in every setting."""

from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random

from PIL import Image

from shared.scenes import Reference, Scene
from tests.pipeline.drawings import a_scene
from worker.pipeline.artist.captions import draw_caption
from worker.pipeline.artist.characters import Character, Setting, draw_character
from worker.pipeline.artist.drawings import SIZES, draw_plain, draw_scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Draw this character in this setting; `seed` decides all that is left to chance."""

    character: Character
    setting: Setting
    size: tuple[int, int]
    seed: int

    @property
    def prompt(self) -> str:
        """Say where; the reference says who."""
        return draw_caption(self.character, self.setting, self._chance("words"), referenced=True)

    @property
    def words_alone(self) -> str:
        """Say where and who, for a drawing without a reference."""
        return draw_caption(self.character, self.setting, self._chance("words"), referenced=False)

    def reference(self) -> Image.Image:
        """Draw the character alone on a plain ground."""
        return draw_plain(self.character, SIZES[0], self._chance("plain"))

    def truth(self) -> Image.Image:
        """Draw what is asked for, as training would show it."""
        return draw_scene(self.character, self.setting, self.size, self._chance("truth"))[0]

    def scene(self, *references: Image.Image, steps: int, prompt: str | None = None) -> Scene:
        """Ask a worker for it."""
        return a_scene(
            prompt=self.prompt if prompt is None else prompt,
            width=self.size[0],
            height=self.size[1],
            steps=steps,
            seed=self.seed,
            references=tuple(map(named, references)),
        )

    def _chance(self, what: str) -> Random:
        return Random(f"{self.seed} {what}")


def orders(count: int, *, seed: int = 0) -> list[Order]:
    """Choose so many; settings take turns, and sizes after every round of them."""
    chance = Random(seed)
    settings = list(Setting)
    return [
        Order(
            character=draw_character(chance, held_out=True),
            setting=settings[number % len(settings)],
            size=SIZES[number // len(settings) % len(SIZES)],
            seed=1000 * seed + number,
        )
        for number in range(count)
    ]


def shuffled(asked: list[Order]) -> list[Order]:
    """Give each order the next one's character: what its reference would show by mistake."""
    others = [*asked[1:], asked[0]]
    return [replace(o, character=n.character) for o, n in zip(asked, others, strict=True)]


def named(picture: Image.Image) -> Reference:
    """Name a picture by its content."""
    return Reference(
        asset="reference",
        sha256=sha256(picture.tobytes()).hexdigest(),
        artifact="",
        generation=0,
        width=picture.width,
        height=picture.height,
    )
