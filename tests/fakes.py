"""A pipeline that only pretends: the one thing, besides the clock, that tests replace."""

import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import cast

from PIL import Image

from shared.errors import OutOfMemory
from shared.scenes import Scene, Weights, recipe_of
from shared.vocabulary import Phase
from tests.builders import WEIGHTS
from worker.drawing import Ahead, Drawing, Drawn


class FakePipeline:
    """Draws plain pictures in the colours of their seeds, in as many steps as the scene asks for.

    `at_step` is called at every step, in the drawing's thread: raise there, wait there, kill there.
    `began_at` tells after which step each drawing began, `steps` counts those of all of them.
    `calls` tells what each call drew, and `ahead` what it was told to come next. Drawings of one
    call take their steps in turn.
    """

    def __init__(
        self,
        *,
        weights: Weights = WEIGHTS,
        at_step: Callable[[Scene, int], None] | None = None,
        together: int = 1,
    ) -> None:
        self.weights, self.together = weights, together
        self.drawn: list[str] = []
        self.calls: list[list[str]] = []
        self.ahead: list[list[str]] = []
        self.began_at: list[int] = []
        self.steps = 0
        self._at_step = at_step or (lambda scene, step: None)

    def draw(
        self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
    ) -> list[Drawn | Exception]:
        self.calls.append([drawing.scene.prompt for drawing in drawings])
        self.ahead.append([each.scene.prompt for each in ahead])
        outcomes: dict[int, Drawn | Exception] = {}
        going_on = {place: self._drawn(drawing) for place, drawing in enumerate(drawings)}
        while going_on:
            for place, drawn in list(going_on.items()):
                outcome = _next_step(drawn)
                if outcome is not None:
                    outcomes[place] = outcome
                    del going_on[place]
        return [outcomes[place] for place in range(len(drawings))]

    def _drawn(self, drawing: Drawing) -> Generator[None, None, Drawn]:
        scene, began = drawing.scene, time.monotonic()
        steps = scene.all_steps
        drawing.on_progress(Phase.ENCODING, 0, steps)
        for reference in scene.references:
            drawing.read(reference)
        done = resumed_step(drawing)
        self.began_at.append(done)
        drawing.on_progress(Phase.DENOISING, done, steps)
        for step in range(done + 1, steps + 1):
            self._at_step(scene, step)
            self.steps += 1
            drawing.on_step(step, partial(saved_latents, scene, step))
            drawing.on_progress(Phase.DENOISING, step, steps)
            yield
        drawing.on_progress(Phase.DECODING, steps, steps)
        self.drawn.append(scene.prompt)
        size = scene.width, scene.height
        return Drawn(
            images=tuple(Image.new("RGB", size, (seed % 256, 80, 160)) for seed in scene.seeds),
            denoised=steps - done,
            denoise_seconds=time.monotonic() - began,
            resumed_at=done,
        )


def _next_step(drawn: Generator[None, None, Drawn]) -> Drawn | Exception | None:
    """Take a step; the outcome if it was the last, or if it raised what concerns it alone."""
    try:
        next(drawn)
    except StopIteration as over:
        return cast(Drawn, over.value)
    except (OutOfMemory, RuntimeError):  # these concern all drawings
        raise
    except Exception as error:
        return error
    return None


def saved_latents(scene: Scene, step: int) -> bytes:
    """What stands for latents here: of which recipe, and after how many steps."""
    return json.dumps({"recipe": recipe_of(scene), "step": step}).encode()


def resumed_step(drawing: Drawing) -> int:
    """After which step to go on: 0 if the latents are damaged or another scene's."""
    try:
        saved = json.loads(drawing.resume or b"{}")
        fits = saved["recipe"] == recipe_of(drawing.scene)
        return int(saved["step"]) if fits else 0
    except (ValueError, KeyError, TypeError):
        return 0


class Gate:
    """Holds a drawing at its first step until the test opens it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, scene: Scene, step: int) -> None:
        self.reached.set()
        assert self.opened.wait(20), "the test never opened the gate"
