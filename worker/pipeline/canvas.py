"""One drawing on its way: its images in the making, and how it ended if it ended early."""

import logging
from collections.abc import Callable
from copy import copy
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from shared.errors import BlankImage, CheckpointRefused, OutOfMemory
from shared.scenes import Reference, recipe_of
from shared.vocabulary import Phase
from worker.drawing import Drawing, Drawn
from worker.pipeline.decode import decode
from worker.pipeline.denoise import Row, conditions_of, first_row
from worker.pipeline.encode import Encoder
from worker.pipeline.latents import restore_latents, write_latents

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Canvas:
    """A `with canvas:` block is about this drawing alone: what it raises becomes its outcome.

    Only what the device says concerns the others, too, and is let through.
    """

    def __init__(self, drawing: Drawing) -> None:
        self.drawing, self.scene = drawing, drawing.scene
        self.failure: Exception | None = None
        self.rows: list[Row] = []
        self._images: list[Image.Image] = []
        self._resumed_at = self._denoised = self._remembered = self._unread = 0
        self._seconds = 0.0
        self._redone = self._begun = self._asking = False
        self._together = 1

    @property
    def going_on(self) -> bool:
        """Whether it has not ended early."""
        return self.failure is None

    def begin(self, encoder: Encoder) -> None:
        """Tell that it begins, and note what need not be encoded; done once."""
        if self._begun:
            return
        self._begun = True
        self._tell(Phase.ENCODING)
        self._remembered = encoder.remembers(self.scene)

    def encode(self, pipeline: FluxKontextPipeline, encoder: Encoder) -> None:
        """Encode the prompt and the references, and lay out each image; done once."""
        if self.rows:
            return
        self._lay_out(pipeline, encoder)
        self._resume()
        self._tell(Phase.DENOISING)

    def stepped(self, images: int, seconds: float, *, together: int) -> None:
        """Note that so many of its images took a step, which took all `together` those seconds."""
        self._denoised += images
        self._seconds += seconds * images / together
        self._together = max(self._together, together)
        # as they stand now: a step replaces a row's latents, and may come before they are saved
        standing = [copy(row) for row in self.rows]
        save = partial(write_latents, standing, recipe=recipe_of(self.scene))
        self._ask(partial(self.drawing.on_step, self._done, save))
        self._tell(Phase.DENOISING)

    def begin_again(self, pipeline: FluxKontextPipeline, encoder: Encoder) -> None:
        """Start over with nothing remembered, once; raises BlankImage the second time."""
        if self._redone:
            raise BlankImage("the latents are not numbers; another seed may help")
        log.warning("latents are not numbers, drawing again")
        encoder.forget(self.scene)
        self._lay_out(pipeline, encoder)
        # only now: without memory to encode, the same step fails once more and leads here again
        self._redone, self._resumed_at = True, 0
        self._tell(Phase.DENOISING)

    def decode(self, pipeline: FluxKontextPipeline, encoder: Encoder) -> None:
        """Decode the images that are not decoded yet."""
        for row in self.rows[len(self._images) :]:
            self._tell(Phase.DECODING)
            with encoder.lock:  # the VAE may change its precision for a moment
                self._images.append(decode(pipeline, self.scene, row.latents))

    def outcome(self, *, peak_bytes: int | None) -> Drawn | Exception:
        """Say how it ended."""
        if self.failure is not None:
            return self.failure
        return Drawn(
            images=tuple(self._images),
            denoised=self._denoised,
            denoise_seconds=self._seconds,
            resumed_at=self._resumed_at,
            peak_bytes=peak_bytes,
            remembered=self._remembered,
            unread_tokens=self._unread,
            together=self._together,
        )

    def __enter__(self) -> Self:
        self._asking = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception) or self._of_the_device(error):
            return False
        self.failure = error
        return True

    def _of_the_device(self, error: Exception) -> bool:
        if isinstance(error, OutOfMemory | torch.OutOfMemoryError):
            return True
        # torch has no other name for what goes wrong in it, but a callback may use it, too
        return isinstance(error, RuntimeError) and not self._asking

    def _ask(self, callback: Callable[[], Answer]) -> Answer:
        self._asking = True
        answer = callback()
        self._asking = False  # when it raises, this stays: then the error is the callback's
        return answer

    @property
    def _done(self) -> int:
        return sum(row.step for row in self.rows)

    def _tell(self, phase: Phase) -> None:
        steps = self.scene.steps * self.scene.count
        self._ask(partial(self.drawing.on_progress, phase, self._done, steps))

    def _lay_out(self, pipeline: FluxKontextPipeline, encoder: Encoder) -> None:
        encoded = encoder.encode(self.scene, self._read)
        self._unread = encoded.unread_tokens
        conditions = conditions_of(pipeline, self.scene, encoded)
        self.rows = [first_row(pipeline, self.scene, seed, conditions) for seed in self.scene.seeds]

    def _resume(self) -> None:
        if self.drawing.resume is None:
            return
        try:
            recipe = recipe_of(self.scene)
            self._resumed_at = restore_latents(
                self.rows, self.drawing.resume, recipe=recipe, step=self.drawing.resume_at
            )
        except CheckpointRefused as refused:
            log.warning("checkpoint refused", extra={"reason": str(refused)})

    def _read(self, reference: Reference) -> Image.Image:
        return self._ask(partial(self.drawing.read, reference))
