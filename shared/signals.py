"""Count the signals that ask a program to end: the first means drain, the second at once."""

import signal
from types import FrameType
from typing import Self

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndWishes:
    """Counts them while it is entered, and restores the former answers afterwards."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def heard(self) -> bool:
        """Whether an end is wished."""
        return self._count > 0

    @property
    def impatient(self) -> bool:
        """Whether it was wished again."""
        return self._count > 1

    def __enter__(self) -> Self:
        self._former = {sign: signal.signal(sign, self._hear) for sign in ASKING}
        return self

    def __exit__(self, *_: object) -> None:
        for sign, answer in self._former.items():
            signal.signal(sign, answer)

    def _hear(self, _sign: int, _frame: FrameType | None) -> None:
        self._count += 1  # no lock is taken here: the main thread may be inside anything
