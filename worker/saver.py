"""The saver of one drawing: it keeps latents safe, so that another worker can go on from them.

The drawing's thread hands the bytes over, and a thread of this object stores them: no step waits.
While the artifact store is slow only the newest bytes wait. A store that fails fails no drawing.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from shared.artifact_names import latents_name
from shared.errors import ArtifactError, ArtifactStoreUnavailable, JobError, StoreError
from shared.jobs import Job, announce, forget_checkpoint
from shared.ports import ArtifactStore, JobStore, Stored
from shared.vocabulary import Checkpoint, Lease
from worker.drawing import Save
from worker.heartbeat import Pace
from worker.measures import Measures

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/octet-stream"
STORE_RETRIES = (0.2, 0.5, 1.0)  # seconds between tries, while nothing newer waits


class Saver:
    """Stores latents at its pace for as long as its `with` block draws; tells `saved` of each."""

    def __init__(
        self,
        job: Job,
        lease: Lease,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        pace: Pace,
        measures: Measures,
        saved: Callable[[Checkpoint | None], None],
    ) -> None:
        self._job, self._lease = job, lease
        self._jobs, self._artifacts = jobs, artifacts
        self._pace, self._measures, self._saved = pace, measures, saved
        self._changed = threading.Condition()
        self._waiting: tuple[int, bytes] | None = None
        self._forgetting = self._busy = self._stopped = False
        self._stored: Checkpoint | None = None
        # Of a job that has a checkpoint nothing earlier is worth saving.
        self._taken_step = job.checkpoint.step if job.checkpoint else 0
        self._taken_at = time.monotonic()
        name = f"saver {job.id}"
        self._thread = threading.Thread(target=self._keep_storing, name=name, daemon=True)

    @property
    def stored(self) -> Checkpoint | None:
        """What was stored last."""
        return self._stored

    def stepped(self, step: int, save: Save) -> None:
        """Take the latents after a step if it is time to; what `save` raises comes through."""
        if step < self._job.scene.all_steps and self._is_due(step):
            self.take(step, save)

    def take(self, step: int, save: Save) -> None:
        """Take the latents after a step, whatever the time; what `save` raises comes through."""
        if not self._pace.saves or step <= self._taken_step:
            return
        latents = save()
        with self._changed:
            if step > self._taken_step:  # else another thread was faster with a later step
                self._taken_step, self._taken_at = step, time.monotonic()
                self._waiting = (step, latents)
                self._changed.notify_all()

    def begin_again(self) -> None:
        """Forget the job's checkpoint: the drawing could not go on from it, and is at the start."""
        self._taken_step = 0
        with self._changed:
            self._waiting, self._stored, self._forgetting = None, None, True
            self._saved(None)
            self._changed.notify_all()

    def settle(self, within: float) -> Checkpoint | None:
        """Wait until what was taken is stored, so many seconds at most; return the last stored."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_settled, timeout=within)
            return self._stored

    def stop(self) -> None:
        """Store nothing more; what is on its way to the store may still arrive."""
        with self._changed:
            self._stopped, self._waiting = True, None
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()  # its thread is not waited for: a store that hangs holds up nobody

    def _is_due(self, step: int) -> bool:
        waited = time.monotonic() - self._taken_at
        if self._pace.save_steps and step - self._taken_step >= self._pace.save_steps:
            return waited >= self._pace.progress  # each costs the job two writes
        return 0 < self._pace.save_seconds <= waited

    @property
    def _overtaken(self) -> bool:
        return self._stopped or self._forgetting or self._waiting is not None

    @property
    def _is_settled(self) -> bool:
        return self._stopped or not (self._waiting or self._busy or self._forgetting)

    def _keep_storing(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except (JobError, StoreError, ArtifactError) as error:
                self._measures.checkpoint_not_stored()
                log.warning("checkpoint not stored", extra=self._names() | {"reason": str(error)})
                if isinstance(error, JobError):  # the lease is lost, the job canceled or full
                    self.stop()
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._overtaken)
            if self._stopped:
                return None
            self._busy = True
            if self._forgetting:
                self._forgetting = False
                return self._forget
            assert self._waiting is not None
            (step, latents), self._waiting = self._waiting, None
            return partial(self._store, step, latents)

    def _forget(self) -> None:
        self._jobs.update(self._job.id, partial(forget_checkpoint, lease=self._lease))

    def _store(self, step: int, latents: bytes) -> None:
        # First the name, then the bytes: whatever happens in between, clean-up knows of them.
        self._jobs.update(self._job.id, partial(announce, lease=self._lease, step=step))
        name = latents_name(self._job.id, self._lease.token, step)
        stored = self._put(name, latents)
        checkpoint = Checkpoint(
            artifact=stored.name,
            generation=stored.generation,
            attempt=self._lease.token,
            step=step,
            recipe=self._job.recipe,
        )
        with self._changed:
            if self._forgetting:  # the drawing began again meanwhile
                return
            self._stored = checkpoint
            self._saved(checkpoint)
        self._measures.checkpoint_stored(len(latents))
        log.info("checkpoint stored", extra=self._names() | {"step": step, "bytes": len(latents)})

    def _put(self, name: str, latents: bytes) -> Stored:
        for pause in STORE_RETRIES:
            try:
                return self._artifacts.put(name, latents, content_type=CONTENT_TYPE)
            except ArtifactStoreUnavailable:
                with self._changed:
                    if self._changed.wait_for(lambda: self._overtaken, timeout=pause):
                        raise
        return self._artifacts.put(name, latents, content_type=CONTENT_TYPE)

    def _names(self) -> dict[str, object]:
        return {"job_id": self._job.id, "attempt": self._lease.token}
