"""What the worker asks of a pipeline, and what it gets back; nothing here knows a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shared.scenes import Reference, Scene, Weights
from shared.vocabulary import Phase

if TYPE_CHECKING:
    from PIL.Image import Image

ReadReference = Callable[[Reference], "Image"]
Save = Callable[[], bytes]


def _ignore_step(step: int, save: Save) -> None:
    """Keep nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One scene to draw, and who is told meanwhile; what a callback raises ends this drawing.

    `read` gives a reference's picture, and is asked only for what the pipeline does not remember.
    `on_progress` hears the phase, the steps done and the steps in all, over all of its images.
    `on_step` hears, before `on_progress` does, how many steps are done, and a function that writes
    the latents of that moment, whenever and by whichever thread it is called; `resume` is what
    such a function once gave. Numbers that went wrong are drawn again: then the steps fall back.
    """

    scene: Scene
    read: ReadReference
    on_progress: Callable[[Phase, int, int], None]
    on_step: Callable[[int, Save], None] = _ignore_step
    resume: bytes | None = None
    resume_at: int | None = None  # the steps in it, where somebody else knows them, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A scene that will be drawn soon: what it needs may be made ready while others are drawn."""

    scene: Scene
    read: ReadReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The images of one drawing, in the order of the scene's seeds, and what they took.

    `resumed_at` counts the steps that were not done again, `denoised` those that were done here.
    """

    images: "tuple[Image, ...]"
    denoised: int
    denoise_seconds: float
    resumed_at: int = 0
    peak_bytes: int | None = None  # of the device's memory; not known of a CPU
    remembered: int = 0  # of the prompt and the references: how many were not encoded again
    unread_tokens: int = 0  # at the prompt's end, that were too many
    together: int = 1  # images that shared the device's steps, at most


class Pipeline(Protocol):
    """What draws; it is called by one thread at a time."""

    weights: Weights
    together: int  # how many images it draws at once

    def draw(
        self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
    ) -> list[Drawn | Exception]:
        """Draw scenes, one outcome each: what its own callbacks or its own input raised is one.

        Raises what concerns all of them: OutOfMemory, or whatever nobody foresaw. Whatever was
        raised, the next drawing is as if nothing had happened.
        """
