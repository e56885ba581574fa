"""A pipeline that only pretends: the one thing, besides the clock, that tests replace."""

import threading
from collections.abc import Callable, Sequence

from PIL import Image

from shared.scenes import Scene, Weights
from shared.vocabulary import Phase
from tests.builders import WEIGHTS


class FakePipeline:
    """Draws a plain picture in the colour of its seed, in as many steps as the scene asks for.

    `at_step` is called at every step, in the drawing's thread: raise there, wait there, kill there.
    """

    def __init__(
        self, *, weights: Weights = WEIGHTS, at_step: Callable[[Scene, int], None] | None = None
    ) -> None:
        self.weights = weights
        self.drawn: list[str] = []
        self._at_step = at_step or (lambda scene, step: None)

    def generate(
        self,
        scene: Scene,
        references: Sequence[Image.Image],
        *,
        on_progress: Callable[[Phase, int, int], None],
    ) -> list[Image.Image]:
        steps = scene.steps * scene.count
        on_progress(Phase.ENCODING, 0, steps)
        on_progress(Phase.DENOISING, 0, steps)
        for step in range(1, steps + 1):
            self._at_step(scene, step)
            on_progress(Phase.DENOISING, step, steps)
        on_progress(Phase.DECODING, steps, steps)
        self.drawn.append(scene.prompt)
        size = scene.width, scene.height
        return [Image.new("RGB", size, (seed % 256, 80, 160)) for seed in scene.seeds]


class Gate:
    """Holds a drawing at its first step until the test opens it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, scene: Scene, step: int) -> None:
        self.reached.set()
        assert self.opened.wait(20), "the test never opened the gate"
