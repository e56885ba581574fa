"""Look at other programs from a test: wait for something, and see whether one has ended."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def until(wanted: Callable[[], bool], seconds: float = 30.0) -> None:
    """Look again and again until it is so."""
    latest = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < latest, f"not within {seconds:g} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Say whether a program has ended, even if nobody has noticed yet."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # it ended just now, or this is no Linux
        return Path("/proc/self").exists()
    return state == "Z"
