"""The desk: one call of the pipeline at a time, and after each the next jobs in turn."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from shared.errors import JobError, JobNotFound, StoreUnavailable
from shared.jobs import Job, claim
from shared.turns import PER_TENANT, after_serving, in_turn, next_together
from shared.vocabulary import Status
from worker.drawing import Ahead, Drawn
from worker.hands import Hand, Hands
from worker.run_job import Attempt
from worker.stored import read_reference
from worker.together import draw_together
from worker.workplace import Workplace

log = logging.getLogger(__name__)

LOCK_PATIENCE = 30.0  # seconds that a push waits for the desk before it is answered
RATE_MEMORY = 0.7  # weight of the past in the running estimate of a step's time
AHEAD = 8  # jobs; as many prompts as the pipeline encodes at once


class Desk:
    """Holds the drawing lock of this process, and all jobs that it has in hand."""

    def __init__(
        self,
        at: Workplace,
        *,
        held: Callable[[], str | None],
        changed: Callable[[Job | None, float | None], None],
        window: float | None,
    ) -> None:
        """Take a reason not to claim from `held`; tell `changed` which job this worker is about.

        `window` is how many seconds one call may go on claiming; none means no end.
        """
        self._at, self._held, self._window = at, held, window
        self.hands = Hands(lambda job: changed(job, self._rate))
        self._lock = threading.Lock()
        self._last: Job | None = None
        self._served: Sequence[str] = ()
        self._rate: float | None = None
        self._draws = 0

    def draw_due(self, *, patience: float = LOCK_PATIENCE) -> bool:
        """Draw due jobs in turn until none is left, time is up or this worker must stop.

        Returns once all that it drew is committed; False when another call kept the desk for
        `patience` seconds. Raises StoreUnavailable only if nothing was claimed.
        """
        mine: set[str] = set()
        if not self._lock.acquire(timeout=patience):
            return False
        try:
            self._draw_in_turn(mine)
        finally:
            self._lock.release()
            self.hands.wait_until_let_go(mine)
        return True

    def _draw_in_turn(self, mine: set[str]) -> None:
        began, refused = time.monotonic(), set[str]()
        while not self._at.stopping.is_set() and self._held() is None:
            self.hands.wait_for_room()
            try:
                due = [job for job in self._due() if job.id not in refused]
                chosen = self._fitting(self._next(due), began, first=not mine)
                if not chosen:
                    return
                claimed = self._claim(chosen, refused)
            except StoreUnavailable:
                if not mine:
                    raise
                return
            if claimed:
                mine |= {hand.job.id for hand in claimed}
                self._draw(claimed, [job for job in due if job not in chosen])

    def _due(self) -> list[Job]:
        return self._at.jobs.claimable(per_tenant=PER_TENANT)

    def _next(self, due: Sequence[Job]) -> list[Job]:
        together = self._at.pipeline.together
        return next_together(due, images=together, served=self._served, last=self._last)

    def _fitting(self, chosen: Sequence[Job], began: float, *, first: bool) -> list[Job]:
        """Leave out what there is no time for; one that never fits is drawn when it comes first."""
        if self._window is None:
            return list(chosen)
        fitting, until = list[Job](), time.monotonic() - began
        for job in chosen:
            until += (self._rate or 0.0) * job.scene.megapixel_steps
            if until >= self._window and not (first and not fitting):
                break
            fitting.append(job)
        return fitting

    def _claim(self, chosen: Sequence[Job], refused: set[str]) -> list[Hand]:
        """Claim those that are still due, and note who is not; raises StoreUnavailable."""
        self._draws += 1
        hands: list[Hand] = []
        for job in chosen:
            try:
                claimed = claim_job(job, self._at)
            except StoreUnavailable:
                if not hands:
                    raise
                break
            if claimed is None:
                refused.add(job.id)
            else:
                hands.append(self.hands.take(Attempt(claimed, self._at), draw=self._draws))
        return hands

    def _draw(self, hands: Sequence[Hand], others: Sequence[Job]) -> None:
        for hand in hands:
            self._served = after_serving(self._served, hand.job.tenant)
            self._last = hand.job
        began = time.monotonic()
        outcomes = draw_together(hands, self._at.pipeline, ahead=self._ahead(others))
        # One that went on from latents took less than its scene would tell, and so did one stopped.
        if all(isinstance(each, Drawn) and not each.resumed_at for each in outcomes):
            work = sum(hand.job.scene.megapixel_steps for hand in hands)
            self._learn((time.monotonic() - began) / work)

    def _ahead(self, others: Sequence[Job]) -> list[Ahead]:
        """Tell what comes next, as far as one can say now; nobody claims it by that."""
        at = self._at
        ours = [job for job in others if job.scene.weights == at.pipeline.weights]
        coming = in_turn(ours, AHEAD, served=self._served, last=self._last)
        read = partial(read_reference, artifacts=at.artifacts)
        return [Ahead(scene=job.scene, read=read) for job in coming]

    def _learn(self, rate: float) -> None:
        known = self._rate
        self._rate = rate if known is None else RATE_MEMORY * known + (1 - RATE_MEMORY) * rate


def claim_job(job: Job, at: Workplace) -> Job | None:
    """Claim a due job; None if somebody else has it by now."""
    try:
        claimed = at.jobs.update(job.id, partial(claim, holder=at.holder, terms=at.terms))
    except (JobError, JobNotFound) as error:
        log.info("not claimed", extra={"job_id": job.id, "reason": str(error)})
        return None
    except StoreUnavailable:
        # The claim may have been written all the same: then the lease is ours to use.
        claimed = at.jobs.get(job.id)
        if claimed.attempt == job.attempt or not claimed.lease:
            raise
    mine = claimed.status is Status.RUNNING and claimed.lease is not None
    if not mine or claimed.lease is None or claimed.lease.holder != at.holder:
        log.info("not claimed", extra={"job_id": job.id, "reason": f"it is {claimed.status}"})
        return None
    log.info("claimed", extra={"job_id": claimed.id, "attempt": claimed.attempt})
    return claimed
