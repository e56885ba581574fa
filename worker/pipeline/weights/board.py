"""Which range is asked for next, again, or a second time beside a slow request.

All connections share one board, on which the ranges of all files stand in the order in which they
are wanted. A range has at most one turn that writes straight into the
buffer; a second one (a hedge) receives beside it, so that no two ever write to one place. Whoever
ends first settles the range; a hedge then waits until the other has stopped before it copies.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from shared.errors import WeightsUnreachable
from worker.pipeline.weights.ranges import Range
from worker.pipeline.weights.rooms import Room
from worker.pipeline.weights.sources import Connection, Interrupted
from worker.pipeline.weights.turns import Patience, State, Turn

REMEMBERED = 32  # ranges by which a slow one is told; the link may change while 18 GB come
LOOK_AGAIN = 0.05  # seconds; a range grows slow without anybody noticing


class Board:
    """See the module; every method may be called by any thread."""

    def __init__(
        self,
        ranges: Sequence[tuple[int, Range]],
        patience: Patience,
        *,
        names: Sequence[str],
        room: Room,
    ) -> None:
        self.retries = self.hedges = self.received = self.complete = 0
        self._names, self._patience, self._room = names, patience, room
        self._states = [State(file, range, range.start) for file, range in ranges]
        self._fresh = deque(range(len(ranges)))
        self._again: list[int] = []
        self._pace: deque[float] = deque(maxlen=REMEMBERED)  # seconds per byte
        self._left = len(ranges)
        self._stopping = False
        self._changed = threading.Condition()

    @property
    def finished(self) -> bool:
        """Whether every range is there."""
        return not self._left

    def take(self, connect: Callable[[int], Connection]) -> Turn | None:
        """Wait for the next request to make, of a file that `connect` gives a connection to.

        None when there will be no more. A range that was never asked for waits until the room has
        a place for it.
        """
        with self._changed:
            while self._left and not self._stopping:
                number, hedge = self._next(time.monotonic())
                if number is not None:
                    connection = connect(self._states[number].file)
                    return self._turn(number, connection, hedge=hedge)
                self._changed.wait(LOOK_AGAIN)
            return None

    def enter(self, turn: Turn) -> bool:
        """Begin to write; False if the turn was stopped, and nothing may be written."""
        with self._changed:
            turn.writing = not turn.stopped
            return turn.writing

    def advance(self, turn: Turn, count: int, crc: int) -> bool:
        """Note bytes that came, and the checksum up to them; False if no more are wanted."""
        with self._changed:
            if not turn.hedge and not turn.stopped:
                state = self._states[turn.number]
                state.position, state.crc = state.position + count, crc
                self.received += count
            return not turn.stopped

    def finish(self, turn: Turn, crc: int, settle: Callable[[], None]) -> None:
        """Settle the range with a turn that received all of it.

        `settle` is called once for each range, when nobody else writes to its place.
        """
        state = self._states[turn.number]
        with self._changed:
            if turn.stopped or state.settled:
                return
            state.settled = True
            self._pace.append(
                (time.monotonic() - turn.began) / max(1, turn.range.stop - turn.start)
            )
            for other in state.turns:
                if other is not turn:
                    _stop(other)
            if turn.hedge:
                self._changed.wait_for(lambda: not _others_write(state, turn))
        settle()
        with self._changed:
            if turn.hedge:
                self.received += turn.range.stop - state.position
                state.position, state.crc = turn.range.stop, crc
            state.complete = True
            self._left -= 1
            while self.complete < len(self._states) and self._states[self.complete].complete:
                self.complete += 1
            self._changed.notify_all()

    def leave(self, turn: Turn) -> None:
        """Say that the turn writes no more; every turn ends with it."""
        with self._changed:
            turn.writing = False
            state = self._states[turn.number]
            state.turns.remove(turn)
            if not state.turns and not state.settled and turn.number not in self._again:
                self._again.append(turn.number)
            self._changed.notify_all()

    def fail(self, turn: Turn, fault: Exception) -> None:
        """Note that a request came to nothing; raises WeightsUnreachable if that was the last."""
        with self._changed:
            state = self._states[turn.number]
            if turn.stopped or state.settled:
                return
            self.retries += 1
            state.failures += 1
            if state.failures >= self._patience.tries:
                self._stopping = True  # or another would ask once more before the caller hears
                raise WeightsUnreachable(
                    f"{self._names[state.file]}: bytes {state.position} to {state.range.stop} "
                    f"did not come, {type(fault).__name__}: {fault}; try again later"
                ) from fault
            longest = min(
                self._patience.longest_pause, self._patience.first_pause * 2**state.failures
            )
            pause = random.uniform(longest / 2, longest)  # noqa: S311
            if isinstance(fault, Interrupted):
                pause = max(pause, fault.pause)
            state.due = time.monotonic() + pause

    def wait(self, seconds: float) -> None:
        """Return when something has changed, or after that time."""
        with self._changed:
            if self._left:
                self._changed.wait(seconds)

    def wake(self) -> None:
        """Let `wait` return."""
        with self._changed:
            self._changed.notify_all()

    def break_off_endless(self) -> None:
        """Let requests fail that have taken longer than any should."""
        latest = time.monotonic() - self._patience.longest
        with self._changed:
            for state in self._states:
                for turn in state.turns:
                    if turn.began < latest:
                        turn.connection.break_off()

    def stop(self) -> None:
        """End all turns, and return when none of them writes any more."""
        with self._changed:
            self._stopping = True
            for state in self._states:
                for turn in state.turns:
                    _stop(turn)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not any(turn.writing for state in self._states for turn in state.turns)
            )

    def checksums(self, file: int) -> list[tuple[int, int]]:
        """Tell checksum and size of each of a file's ranges, in the order of the file."""
        ordered = sorted(
            (state for state in self._states if state.file == file),
            key=lambda state: state.range.start,
        )
        return [(state.crc, state.range.stop - state.range.start) for state in ordered]

    def _next(self, now: float) -> tuple[int | None, bool]:
        due = [number for number in self._again if self._states[number].due <= now]
        if due:
            self._again.remove(min(due))
            return min(due), False
        slow = self._slow(now)
        if slow is not None:
            return slow, True
        if self._fresh:
            state = self._states[self._fresh[0]]
            if self._room.admit(state.file, state.range):
                return self._fresh.popleft(), False
        return None, False

    def _slow(self, now: float) -> int | None:
        patience = self._patience
        if len(self._pace) < patience.known:
            return None
        pace = median(self._pace) * patience.slow
        running = [state for state in self._states[self.complete :] if state.turns]
        if sum(turn.hedge for state in running for turn in state.turns) >= patience.hedges:
            return None
        for state in running:
            turn = state.turns[0]
            expected = max(pace * (turn.range.stop - turn.start), patience.slow_at_least)
            if len(state.turns) == 1 and not state.settled and now - turn.began > expected:
                return turn.number
        return None

    def _turn(self, number: int, connection: Connection, *, hedge: bool) -> Turn:
        state = self._states[number]
        turn = Turn(
            number=number,
            file=state.file,
            range=state.range,
            start=state.position,
            crc=state.crc,
            hedge=hedge,
            connection=connection,
            began=time.monotonic(),
        )
        state.turns.append(turn)
        self.hedges += hedge
        return turn


def _stop(turn: Turn) -> None:
    turn.stopped = True
    turn.connection.break_off()


def _others_write(state: State, turn: Turn) -> bool:
    return any(other.writing for other in state.turns if other is not turn)
