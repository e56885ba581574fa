"""The desk: one drawing at a time in this process, and after each the next job in turn."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from shared.errors import JobError, JobNotFound, StoreUnavailable
from shared.jobs import Job, claim, release
from shared.turns import PER_TENANT, after_serving, next_in_turn
from shared.vocabulary import Metrics, Status
from worker.run_job import Workplace, run_job

log = logging.getLogger(__name__)

LOCK_PATIENCE = 30.0  # seconds that a push waits for the desk before it is answered
RATE_MEMORY = 0.7  # weight of the past in the running estimate of a step's time


class Desk:
    """Holds the drawing lock of this process, and knows what is being drawn."""

    def __init__(
        self,
        at: Workplace,
        *,
        held: Callable[[], str | None],
        changed: Callable[[Job | None, float | None], None],
        window: float | None = None,
    ) -> None:
        """Take a reason not to claim from `held`; tell `changed` which job is on the desk.

        `window` is how many seconds one call may go on claiming; none means no end.
        """
        self._at, self._held, self._changed, self._window = at, held, changed, window
        self._lock = threading.Lock()
        self._cleared = threading.Condition()
        self._current: Job | None = None
        self._last: Job | None = None
        self._served: list[str] = []
        self._rate: float | None = None

    @property
    def drawing(self) -> str | None:
        """The id of the job on the desk."""
        current = self._current
        return current.id if current else None

    def draw_due(self, *, patience: float = LOCK_PATIENCE) -> bool:
        """Draw due jobs in turn until none is left, time is up or this worker must stop.

        Returns False when another call kept the desk for `patience` seconds. Raises
        StoreUnavailable only if nothing was claimed.
        """
        if not self._lock.acquire(timeout=patience):
            return False
        try:
            self._draw_in_turn(time.monotonic())
        finally:
            self._lock.release()
        return True

    def wait_until_cleared(self, job: str) -> None:
        """Wait while this job is on the desk."""
        with self._cleared:
            self._cleared.wait_for(lambda: self.drawing != job)

    def wait_until_free(self, patience: float) -> bool:
        """Wait at most `patience` seconds for the drawing to end; say whether it did."""
        with self._cleared:
            return self._cleared.wait_for(lambda: self._current is None, timeout=max(0, patience))

    def give_back(self) -> None:
        """T8: put the job on the desk back into the queue, without waiting for its step to end."""
        job = self._current
        if job is None or job.lease is None:
            return
        back = partial(release, lease=job.lease, metrics=Metrics(), terms=self._at.terms)
        try:
            self._at.jobs.update(job.id, back)
        except (JobError, StoreUnavailable) as error:
            log.warning("not given back", extra={"job_id": job.id, "reason": str(error)})
        else:
            log.info("given back", extra={"job_id": job.id, "attempt": job.attempt})

    def _draw_in_turn(self, began: float) -> None:
        refused: set[str] = set()
        drawn = 0
        while not self._at.stopping.is_set() and self._held() is None:
            try:
                job = self._next(refused)
                if job is None or not self._fits(job, began, first=not drawn):
                    return
                claimed = self._claim(job)
            except StoreUnavailable:
                if not drawn:
                    raise
                return
            if claimed is None:
                refused.add(job.id)
                continue
            self._draw(claimed)
            drawn += 1

    def _next(self, refused: set[str]) -> Job | None:
        due = self._at.jobs.claimable(per_tenant=PER_TENANT)
        possible = [job for job in due if job.id not in refused]
        return next_in_turn(possible, served=self._served, last=self._last)

    def _fits(self, job: Job, began: float, *, first: bool) -> bool:
        """Whether there is time for it; one that never fits is drawn when it comes first."""
        if self._window is None or first:
            return True
        estimate = (self._rate or 0.0) * job.scene.megapixel_steps
        return time.monotonic() - began + estimate < self._window

    def _claim(self, job: Job) -> Job | None:
        holder, terms = self._at.holder, self._at.terms
        try:
            claimed = self._at.jobs.update(job.id, partial(claim, holder=holder, terms=terms))
        except (JobError, JobNotFound) as error:
            log.info("not claimed", extra={"job_id": job.id, "reason": str(error)})
            return None
        except StoreUnavailable:
            # The claim may have been written all the same: then the lease is ours to use.
            claimed = self._at.jobs.get(job.id)
            if claimed.attempt == job.attempt or not claimed.lease:
                raise
        mine = claimed.status is Status.RUNNING and claimed.lease is not None
        if not mine or claimed.lease is None or claimed.lease.holder != holder:
            log.info("not claimed", extra={"job_id": job.id, "reason": f"it is {claimed.status}"})
            return None
        log.info("claimed", extra={"job_id": claimed.id, "attempt": claimed.attempt})
        return claimed

    def _draw(self, job: Job) -> None:
        self._place(job)
        began = time.monotonic()
        try:
            ended = run_job(job, self._at)
        finally:
            self._place(None)
        self._served = after_serving(self._served, job.tenant)
        self._last = job
        if ended is not None and ended.status is Status.SUCCEEDED:
            self._learn((time.monotonic() - began) / job.scene.megapixel_steps)

    def _learn(self, rate: float) -> None:
        known = self._rate
        self._rate = rate if known is None else RATE_MEMORY * known + (1 - RATE_MEMORY) * rate

    def _place(self, job: Job | None) -> None:
        with self._cleared:
            self._current = job
            self._cleared.notify_all()
        self._changed(job, self._rate)
