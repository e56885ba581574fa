"""Which worker to push to next: the least busy of those that can be reached."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock

# A worker that is starting refuses connections. It is asked again soon, then every two seconds:
# often enough that nobody waits for it, seldom enough to cost nothing.
FIRST_REST = 0.1
LONGEST_REST = 2.0


class Endpoints:
    """Counts the pushes under way to each address, and lets those that cannot be reached rest."""

    def __init__(
        self, addresses: Sequence[str], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._addresses = addresses
        self._monotonic = monotonic
        self._lock = Lock()
        self._busy = Counter[str]()
        self._refusals = Counter[str]()
        self._rests_until: dict[str, float] = {}

    @property
    def busy(self) -> int:
        """How many pushes are under way."""
        with self._lock:
            return self._busy.total()

    def acquire(self) -> str | None:
        """Choose an address and count a push to it; None while all of them rest."""
        now = self._monotonic()
        with self._lock:
            awake = [at for at in self._addresses if self._rests_until.get(at, 0.0) <= now]
            if not awake:
                return None
            chosen = min(awake, key=lambda address: self._busy[address])
            self._busy[chosen] += 1
            return chosen

    def release(self, address: str, *, reached: bool | None) -> None:
        """Count a push as over; None if nothing was tried, so that nothing was learnt."""
        with self._lock:
            self._busy[address] -= 1
            if reached:
                self._refusals.pop(address, None)
                self._rests_until.pop(address, None)
            elif reached is False:
                rest = min(LONGEST_REST, FIRST_REST * 2 ** min(self._refusals[address], 10))
                self._refusals[address] += 1
                self._rests_until[address] = self._monotonic() + rest
