"""The heartbeat of one drawing: carries progress out and the cancel wish in, and sees it hang.

A thread renews the lease while the pipeline advances. What it learns (the lease is lost, a cancel
wish, this worker must stop) is raised in the drawing's own thread, at the next `advance`.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from shared.errors import JobError, JobNotFound, LeaseLost, StoreUnavailable
from shared.jobs import Job, Terms, renew
from shared.ports import JobStore
from shared.vocabulary import Checkpoint, Lease, Phase, Progress
from worker.stopwatch import Stopwatch

log = logging.getLogger(__name__)

READ_EVERY = 0.5  # seconds: a cancel wish is to be heard within a second
TICK = 0.05


class CancelHeard(Exception):
    """The job's owner wishes it canceled."""


class WorkerStopping(Exception):
    """This process was asked to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to write, and when an advance is overdue; in seconds but for the steps."""

    heartbeat: float
    progress: float  # the least time between two writes of progress
    step_timeout: float
    save_seconds: float = 0.0  # between two checkpoints; 0: not by time
    save_steps: int = 0  # between two checkpoints; 0: not by steps

    @property
    def saves(self) -> bool:
        """Whether there are checkpoints at all."""
        return self.save_seconds > 0 or self.save_steps > 0


class Heartbeat:
    """Keeps one lease alive for as long as its `with` block draws."""

    def __init__(
        self,
        job: Job,
        *,
        jobs: JobStore,
        terms: Terms,
        pace: Pace,
        stopping: threading.Event,
        hung: Callable[[str], None],
    ) -> None:
        if job.lease is None:
            raise LeaseLost(f"{job.id} was not claimed")
        self._id, self._lease = job.id, job.lease
        self._jobs, self._terms, self._pace = jobs, terms, pace
        self._stopping, self._hung = stopping, hung
        self._progress: Progress | None = None
        self._checkpoint: Checkpoint | None = None
        self._written: tuple[Progress | None, Checkpoint | None] = (None, None)
        self._reason: Exception | None = None
        self._done = threading.Event()
        self._began = self._advanced_at = time.monotonic()
        self._renewed_at = self._tried_at = self._read_at = self._began
        self._stopwatch = Stopwatch()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {job.id}", daemon=True)

    @property
    def lease(self) -> Lease:
        """The lease that it keeps alive."""
        return self._lease

    @property
    def seconds(self) -> float:
        """How long this attempt has lasted."""
        return time.monotonic() - self._began

    @property
    def lease_left(self) -> float:
        """Seconds until the lease runs out, as far as this worker knows."""
        return self._renewed_at + self._terms.lease.total_seconds() - time.monotonic()

    def advance(self, phase: Phase, step: int, steps: int) -> None:
        """Note that the drawing got this far; raises what its thread has learned meanwhile.

        Raises LeaseLost, CancelHeard or WorkerStopping: then stop at once. Images that have only
        to be stored are stored, also when this worker must stop.
        """
        self._advanced_at = time.monotonic()
        self._stopwatch.enter(phase.value)
        self._progress = Progress(phase=phase, step=step, steps=steps)
        if self._reason:
            raise self._reason
        if self._stopping.is_set() and phase is not Phase.UPLOADING:
            raise WorkerStopping(f"{self._id}: this worker must stop")

    def alive(self) -> None:
        """Note that the device works, if not on this drawing: nothing hangs."""
        self._advanced_at = time.monotonic()

    def keep(self, checkpoint: Checkpoint | None) -> None:
        """Write this checkpoint into the job with the next renewal; None takes it back."""
        self._checkpoint = checkpoint

    def enter(self, stage: str) -> None:
        """Count seconds for a stage that is no phase, until the next advance."""
        self._stopwatch.enter(stage)

    def stages(self) -> dict[str, float]:
        """Tell how many seconds each phase and stage so far has taken."""
        return self._stopwatch.seconds()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(TICK) and not self._reason:
            if time.monotonic() - self._advanced_at > self._pace.step_timeout:
                # No renewal any more: the lease runs out and another worker steals the job.
                self._hung(f"{self._id}: no advance in {self._pace.step_timeout:g} s")
                return
            self._listen()

    def _listen(self) -> None:
        now = time.monotonic()
        news = (self._progress, self._checkpoint) != self._written
        told = news and now - self._tried_at >= self._pace.progress
        try:
            if told or now - self._renewed_at >= self._pace.heartbeat:
                self._renew()
            elif now - self._read_at >= READ_EVERY:
                self._heard(self._jobs.get(self._id))
        except (JobError, JobNotFound) as error:
            self._reason = LeaseLost(str(error))
        except StoreUnavailable:
            self._read_at = time.monotonic()
            if self.lease_left < 0:
                self._reason = LeaseLost(f"{self._id}: the store was away for a whole lease")

    def _renew(self) -> None:
        began = self._tried_at = time.monotonic()
        progress, checkpoint = self._progress, self._checkpoint
        keep = partial(
            renew, lease=self._lease, progress=progress, checkpoint=checkpoint, terms=self._terms
        )
        job = self._jobs.update(self._id, keep)
        self._renewed_at, self._written = began, (progress, checkpoint)
        self._heard(job)

    def _heard(self, job: Job) -> None:
        self._read_at = time.monotonic()
        mine = job.lease is not None and job.lease.token == self._lease.token
        if not mine or job.lease is None or job.lease.holder != self._lease.holder:
            self._reason = LeaseLost(f"{job.id}: the lease is another's")
        elif job.cancel_requested_at:
            self._reason = CancelHeard(f"{job.id}: canceled by its owner")
