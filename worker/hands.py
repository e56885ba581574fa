"""The jobs in this worker's hands: claimed, and not committed yet."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress

from shared.errors import LeaseLost, StoreError
from shared.jobs import Job
from worker.drawing import Drawn
from worker.outcomes import names
from worker.run_job import Attempt

log = logging.getLogger(__name__)


class Hand:
    """One job: its thread keeps the lease, waits for what is drawn, then finishes it.

    So the next job can be drawn while this one's images are encoded, stored and committed.
    """

    def __init__(self, attempt: Attempt, *, draw: int, let_go: Callable[["Hand"], None]) -> None:
        """Begin; `draw` numbers the pipeline's call that this job is drawn by."""
        self.attempt, self.draw = attempt, draw
        self.drawn: Future[Drawn | Exception] = Future()
        self._let_go = let_go
        name = f"job {attempt.job.id}"
        threading.Thread(target=self._keep, name=name, daemon=True).start()

    @property
    def job(self) -> Job:
        """The job as it was claimed."""
        return self.attempt.job

    @property
    def drawing(self) -> bool:
        """Whether it is not known yet what came of the drawing."""
        return not self.drawn.done()

    def tell(self, outcome: Drawn | Exception) -> None:
        """Say what came of the drawing; only the first word counts."""
        with suppress(InvalidStateError):
            self.drawn.set_result(outcome)

    def give_back(self) -> None:
        """T8, without waiting for a step to end or for images to be stored."""
        self.attempt.give_back()
        self.tell(LeaseLost(f"{self.job.id} was given back"))

    def _keep(self) -> None:
        try:
            self.attempt.run(self.drawn.result)
        except StoreError as error:
            log.error("not committed", extra={**names(self.job), "reason": str(error)})
        finally:
            self._let_go(self)


class Hands:
    """All of them, in the order in which they were claimed; any thread may ask and wait."""

    def __init__(self, changed: Callable[[Job | None], None]) -> None:
        """Tell `changed` which job this worker is about, or that it has none."""
        self._changed = changed
        self._moved = threading.Condition()
        self._hands: tuple[Hand, ...] = ()
        self._telling = threading.Lock()
        self._told: Job | None = None

    @property
    def drawing(self) -> tuple[str, ...]:
        """The ids of the jobs that are being drawn."""
        return tuple(hand.job.id for hand in self._hands if hand.drawing)

    @property
    def finishing(self) -> tuple[str, ...]:
        """The ids of the jobs that were drawn and are not committed yet."""
        return tuple(hand.job.id for hand in self._hands if not hand.drawing)

    def take(self, attempt: Attempt, *, draw: int) -> Hand:
        """Take a job that was just claimed."""
        hand = Hand(attempt, draw=draw, let_go=self._let_go)
        with self._moved:
            self._hands = (*self._hands, hand)
        self._tell()
        return hand

    def wait_until_let_go(self, jobs: Collection[str]) -> None:
        """Wait while any of these jobs is in hand."""
        with self._moved:
            self._moved.wait_for(lambda: not any(hand.job.id in jobs for hand in self._hands))

    def wait_for_room(self) -> None:
        """Wait until what one call of the pipeline drew, at most, is still to be finished.

        What is drawn faster than it can be stored would fill the memory.
        """
        with self._moved:
            self._moved.wait_for(lambda: len({hand.draw for hand in self._hands}) < 2)

    def wait_until_drawn(self, patience: float) -> bool:
        """Wait at most `patience` seconds for what is being drawn; say whether it all ended."""
        drawings = [hand.drawn for hand in self._hands]
        return not wait(drawings, timeout=max(0, patience)).not_done

    def wait_until_free(self, patience: float) -> bool:
        """Wait at most `patience` seconds until no job is in hand; say whether it came to that."""
        with self._moved:
            return self._moved.wait_for(lambda: not self._hands, timeout=max(0, patience))

    def drain(self, *, step: float, last_moment: float) -> None:
        """Give a step that long to end by itself, then give its jobs back and wait no longer.

        What is drawn already is stored and committed, or given back at the last moment. Both are
        seconds from now; nothing may be claimed any more.
        """
        began = time.monotonic()
        if not self.wait_until_drawn(step):
            self.give_back(finishing=False)
        if not self.wait_until_free(last_moment - (time.monotonic() - began)):
            self.give_back(finishing=True)

    def give_back(self, *, finishing: bool) -> None:
        """T8 for what is being drawn and, if wished, what is being finished; all of it at once."""
        hands = [hand for hand in self._hands if finishing or hand.drawing]
        threads = [threading.Thread(target=hand.give_back, daemon=True) for hand in hands]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _let_go(self, hand: Hand) -> None:
        with self._moved:
            self._hands = tuple(other for other in self._hands if other is not hand)
            self._moved.notify_all()
        self._tell()

    def _tell(self) -> None:
        with self._telling:  # looked at in here, so that who tells last tells what is
            hands = self._hands
            first = next((hand.job for hand in hands if hand.drawing), None)
            about = first or (hands[-1].job if hands else None)
            if about is not self._told:
                self._told = about
                self._changed(about)
