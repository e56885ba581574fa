"""What befalls a push on its way: nothing, or by chance a twin, a delay or its loss."""

import threading
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How probable each mishap is, from 0 to 1; none of them unless it is asked for."""

    lost: float = 0.0  # acknowledged, but pushed to nobody: only the sweep can repair that
    doubled: float = 0.0  # pushed a second time, at the same moment
    delayed: float = 0.0
    longest_delay: float = 1.0  # seconds

    def __post_init__(self) -> None:
        if not all(0.0 <= chance <= 1.0 for chance in (self.lost, self.doubled, self.delayed)):
            raise ValueError("a probability is from 0 to 1")
        if self.longest_delay < 0:
            raise ValueError("a delay is no less than 0 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What befalls one push; nothing, if not said."""

    lost: bool = False
    doubled: bool = False
    delay: float = 0.0  # seconds


class Fates:
    """Draws fates; the n-th is the same for the same seed and odds. Safe for threads."""

    def __init__(self, odds: Odds, *, seed: int) -> None:
        self._odds = odds
        self._dice = Random(seed)  # noqa: S311 - mishaps, not secrets
        self._lock = threading.Lock()

    def draw(self) -> Fate:
        """Draw the next push's fate."""
        with self._lock:  # always four throws, so that one chance does not move the others
            lost, doubled, delayed, length = (self._dice.random() for _ in range(4))
        return Fate(
            lost=lost < self._odds.lost,
            doubled=doubled < self._odds.doubled,
            delay=length * self._odds.longest_delay if delayed < self._odds.delayed else 0.0,
        )
