"""Draw scenes with FLUX.1 Kontext: load, encode, denoise, decode."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from shared.errors import OutOfMemory
from shared.scenes import Weights
from worker.drawing import Ahead, Drawing, Drawn
from worker.pipeline.canvas import Canvas
from worker.pipeline.denoise import Row, advance
from worker.pipeline.encode import Encoder
from worker.pipeline.memory import begin_peak, peak_of, telling_of_memory
from worker.pipeline.residency import Residency, set_tiles, settle
from worker.pipeline.start import Start
from worker.pipeline.weights.assemble import OnStage, OnTook, load

log = logging.getLogger(__name__)


class Kontext:
    """The loaded model. See Pipeline; one thread draws with it."""

    weights: Weights
    device: str

    def __init__(
        self,
        start: Start,
        *,
        threads: int | None = None,
        on_stage: OnStage = lambda stage, fraction: None,
        on_took: OnTook = lambda stage, seconds: None,
    ) -> None:
        """Finish what `begin` began, also when it fails.

        `on_stage` hears what is done and the fraction, `on_took` what has ended and its seconds.
        Raises WeightsMissing, WeightsDamaged, WrongWeights, WeightsUnreachable or OutOfMemory.
        """
        on_stage("checking weights", 0.0)
        self.plan, self.together = start.plan, start.together
        self.device, self._device = str(start.device), start.device
        # sums come out differently with another number of threads, so the number is fixed
        torch.set_num_threads(threads or torch.get_num_threads())
        manifest = start.arrival.fetching.opened().manifest
        self.weights = manifest.weights
        with telling_of_memory():
            self._pipeline = load(
                start.arrival, dtype=start.dtype, on_stage=on_stage, on_took=on_took
            )
        self._encoder = Encoder(self._pipeline, text_tokens=manifest.text_tokens)
        self._beside: threading.Thread | None = None
        on_stage("settling models", 0.9)
        began = time.monotonic()
        with telling_of_memory():
            self._settle(self.plan.residency)
        set_tiles(self._pipeline, tiled=self.plan.tiled)
        on_took("settling", time.monotonic() - began)
        log.info("models settled", extra={"residency": self.residency})
        on_stage("ready", 1.0)

    def draw(
        self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
    ) -> list[Drawn | Exception]:
        """See Pipeline.draw.

        Each image is what its seed alone would draw, to the bit, unless several share the device:
        then it is to within the tolerance that docs/weights.md states.
        """
        canvases = [Canvas(drawing) for drawing in drawings]
        begin_peak(self._device)
        try:
            with torch.no_grad():
                self._stepping_down(partial(self._encode, canvases, ahead))
                self._make_ready_beside(ahead)
                self._stepping_down(partial(self._denoise, canvases))
                self._stepping_down(partial(self._decode, canvases))
        finally:
            # a stopped drawing leaves its models on the device, and a cache in the middle
            self._pipeline.transformer._reset_stateful_cache()
            self._after_drawing()
        peak = peak_of(self._device)
        return [canvas.outcome(peak_bytes=peak) for canvas in canvases]

    def _encode(self, canvases: Sequence[Canvas], ahead: Sequence[Ahead]) -> None:
        for canvas in canvases:
            with canvas:
                canvas.begin(self._encoder)
        later = () if self._encodes_beside else ahead
        if len(canvases) + len(later) > 1:
            waiting = [canvas.scene for canvas in _going_on(canvases)]
            waiting += [each.scene for each in later]
            self._encoder.encode_prompts(scene.prompt for scene in waiting)
        for canvas in _going_on(canvases):
            with canvas:
                canvas.encode(self._pipeline, self._encoder)

    def _denoise(self, canvases: Sequence[Canvas]) -> None:
        while rows := self._next_rows(canvases):
            began = time.monotonic()
            fine = advance(self._pipeline.transformer, [row for _, row in rows])
            seconds = time.monotonic() - began
            for canvas in _going_on(dict.fromkeys(canvas for canvas, _ in rows)):
                own = [ok for ok, (whose, _) in zip(fine, rows, strict=True) if whose is canvas]
                with canvas:
                    if all(own):
                        canvas.stepped(len(own), seconds, together=len(rows))
                    else:
                        canvas.begin_again(self._pipeline, self._encoder)

    def _next_rows(self, canvases: Sequence[Canvas]) -> list[tuple[Canvas, Row]]:
        """Choose the images that take the next step: the first one, and others of its sizes."""
        waiting = [(c, row) for c in _going_on(canvases) for row in c.rows if not row.done]
        waiting.sort(key=lambda each: each[1].step == 0)  # what has begun is finished first
        if not waiting:
            return []
        sizes = waiting[0][1].conditions.sizes
        tokens = sum(rows * columns for rows, columns in sizes) + self.plan.widths.text_tokens
        most = min(self.together, self.plan.together(tokens))
        return [each for each in waiting if each[1].conditions.sizes == sizes][:most]

    def _decode(self, canvases: Sequence[Canvas]) -> None:
        for canvas in _going_on(canvases):
            with canvas:
                canvas.decode(self._pipeline, self._encoder)

    def _make_ready_beside(self, ahead: Sequence[Ahead]) -> None:
        if not ahead or not self._encodes_beside:
            return
        # one that still waits for a reference from far away is not joined by another
        if self._beside is None or not self._beside.is_alive():
            work = partial(self._make_ready, ahead)
            self._beside = threading.Thread(target=work, name="encode ahead", daemon=True)
            self._beside.start()

    def _make_ready(self, ahead: Sequence[Ahead]) -> None:
        try:
            with telling_of_memory():
                # models that are offloaded meanwhile must not be called in by two threads
                self._encoder.make_ready(ahead, wanted=lambda: self._encodes_beside)
        except OutOfMemory as full:
            log.warning("nothing made ready", extra={"reason": str(full)})

    def _stepping_down(self, work: Callable[[], None]) -> None:
        """Do a work that can go on where it stopped; without memory, again with less of it."""
        while True:
            try:
                with telling_of_memory():
                    return work()
            except OutOfMemory as full:
                reason = str(full)
            # only here: while the error is handled, its traceback holds what fills the memory
            if not self._step_down():
                raise OutOfMemory(reason)

    def _step_down(self) -> bool:
        """Ask less of the device from now on; False when there is nothing left to spare."""
        with self._encoder.lock:  # another thread may be encoding with the models as they are
            spared = self._spare()
        if spared is None:
            return False
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("stepped down", extra={"to": spared})
        return True

    def _spare(self) -> str | None:
        # it costs a moment at most, and may be all that was lacking
        self._encoder.together = 1
        if self.together > 1:
            self.together = 1
            return "one image at a time"
        if not self._pipeline.vae.use_tiling:
            set_tiles(self._pipeline, tiled=True)
            return "pictures in tiles"
        if self.residency is not Residency.OFFLOAD:
            self._settle(Residency.OFFLOAD)
            return "models offloaded"
        return None

    def _settle(self, residency: Residency) -> None:
        self.residency = residency
        self._after_drawing = settle(self._pipeline, residency, self._device)

    @property
    def _encodes_beside(self) -> bool:
        """Whether the encoders may compute while the transformer does: each has what it needs."""
        resident = self.residency is Residency.RESIDENT
        return self._device.type == "cuda" and resident and self.plan.beside


def _going_on(canvases: Iterable[Canvas]) -> list[Canvas]:
    return [canvas for canvas in canvases if canvas.going_on]
