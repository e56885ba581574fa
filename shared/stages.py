"""How long a start takes, stage by stage, counted from the beginning of the process."""

import time
from pathlib import Path

_TICKS = 100  # of /proc/self/stat, on every Linux that illo runs on
_BEGAN_FIELD = 19  # of those behind the program's name; see proc(5), starttime


class Stages:
    """Marks the end of each stage; the first one began with the process."""

    def __init__(self) -> None:
        self._marked = time.monotonic() - age()
        self._seconds: dict[str, float] = {}

    def done(self, name: str) -> None:
        """Note that a stage has ended, and the next begins."""
        now = time.monotonic()
        self._seconds[name] = round(now - self._marked, 3)
        self._marked = now

    def seconds(self) -> dict[str, float]:
        """Tell how long each stage took."""
        return dict(self._seconds)


def age() -> float:
    """Tell for how many seconds this process has run; to a hundredth, and 0 where none can tell."""
    try:
        behind_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(behind_name[_BEGAN_FIELD]) / _TICKS
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0
