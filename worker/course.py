"""The course of one drawing: what it goes on from, what it tells by the step, what is saved."""

import logging
from functools import partial
from types import TracebackType
from typing import Self

from shared.errors import ArtifactStoreUnavailable, CheckpointRefused, WeightsChanged
from shared.jobs import Job
from shared.vocabulary import Metrics, Phase
from worker.drawing import Drawing, Drawn, Save
from worker.heartbeat import Heartbeat, WorkerStopping
from worker.outcomes import names
from worker.saver import Saver
from worker.steps import StepCount
from worker.stored import read_latents, read_reference
from worker.workplace import Workplace

log = logging.getLogger(__name__)


class Course:
    """Keeps the lease of a job alive and its latents safe for as long as a `with` block has it."""

    def __init__(self, job: Job, at: Workplace) -> None:
        self._job, self._at = job, at
        self.beat = Heartbeat(
            job, jobs=at.jobs, terms=at.terms, pace=at.pace, stopping=at.stopping, hung=at.hung
        )
        self.saver = Saver(
            job, self.beat.lease, jobs=at.jobs, artifacts=at.artifacts, pace=at.pace,
            measures=at.measures, saved=self.beat.keep,
        )  # fmt: skip
        self._steps = StepCount()
        self._last_step: tuple[int, Save] | None = None
        self._seconds: float | None = None
        self.share = 1.0  # of the device, while others are drawn with it

    def drawing(self) -> Drawing:
        """Make ready what the pipeline needs; what this raises is an outcome, too."""
        job, at = self._job, self._at
        self.beat.advance(Phase.LOADING, 0, job.scene.all_steps)
        if job.scene.weights != at.pipeline.weights:
            raise WeightsChanged(
                f"it was submitted for {job.scene.weights.label}, this worker draws with "
                f"{at.pipeline.weights.label}: submit it again, or reprocess what is stale"
            )
        return Drawing(
            scene=job.scene,
            read=partial(read_reference, artifacts=at.artifacts),
            on_progress=self._on_progress,
            on_step=self._on_step,
            resume=self._resume(),
            resume_at=self._job.checkpoint.step if self._job.checkpoint else None,
        )

    def end(self) -> None:
        """Note that the drawing has ended; what of it was saved may still be on its way."""
        self._last_step, self._seconds = None, self.beat.seconds

    def save_last_step(self) -> None:
        """Save the drawing after the last step that ended, whatever the time; from any thread."""
        if last := self._last_step:
            self.saver.take(*last)

    def used(self, drawn: Drawn | None) -> Metrics:
        """Sum up what the attempt took so far; the device is not its own once it is drawn."""
        stages, count = self.beat.stages(), self._steps
        steps = drawn.denoised if drawn else count.denoised
        seconds = drawn.denoise_seconds if drawn else stages.get(Phase.DENOISING.value, 0.0)
        return Metrics(
            gpu_seconds=self.share * (self._seconds or self.beat.seconds),
            stages=stages,
            steps=steps,
            steps_per_second=round(steps / seconds, 4) if steps and seconds else None,
            resumed_at=count.resumed_at,
            peak_bytes=drawn.peak_bytes if drawn else None,
            remembered=drawn.remembered if drawn else None,
            unread_tokens=drawn.unread_tokens if drawn else None,
        )

    def __enter__(self) -> Self:
        self.beat.__enter__()
        self.saver.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.saver.__exit__(kind, error, trace)
        self.beat.__exit__(kind, error, trace)

    def _resume(self) -> bytes | None:
        """Read what an earlier attempt saved; what cannot be used fails nothing."""
        job, checkpoint = self._job, self._job.checkpoint
        if checkpoint is None:
            return None
        try:
            latents = read_latents(job, checkpoint, self._at.artifacts)
        except ArtifactStoreUnavailable as away:  # the next attempt may read it
            log.warning("checkpoint not read", extra={**names(job), "reason": str(away)})
            return None
        except CheckpointRefused as refused:
            log.warning("checkpoint refused", extra={**names(job), "reason": str(refused)})
            self._at.measures.checkpoint_refused()
            self.saver.begin_again()
            return None
        self._steps.resume(checkpoint.step)
        return latents

    def _on_progress(self, phase: Phase, step: int, steps: int) -> None:
        if phase is Phase.DENOISING:
            self._note(step)
        try:
            self.beat.advance(phase, step, steps)
        except WorkerStopping:
            self.save_last_step()
            raise

    def _on_step(self, step: int, save: Save) -> None:
        self._note(step)
        self._last_step = step, save
        self.saver.stepped(step, save)

    def _note(self, step: int) -> None:
        fresh = not self._steps.denoised
        if self._steps.heard(step):
            self._last_step = None
            log.warning("begun again", extra={**names(self._job), "step": step})
            self.saver.begin_again()
            if fresh:  # the pipeline says why in an event of its own
                self._at.measures.checkpoint_refused()
