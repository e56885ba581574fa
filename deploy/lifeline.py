"""Tie a program to the one that started it, so that none outlives a parent that was killed."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

GRACE = 3.5  # seconds between being told and being ended; the promise is five for all of it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Lifeline:
    """A pipe that only the parent can write to: its children read the end of it when it dies."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()  # not inheritable: `start` hands on the read end alone

    def start(
        self,
        code: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
        stdout: int | IO[bytes] | None = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = None,
        folder: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start Python code that ends within five seconds of this program's death.

        Call it from the main thread: the kernel tells children of the end of the thread that
        started them. They have their own group, so a Ctrl-C in a terminal does not reach them.
        """
        hold = f"from deploy.lifeline import hold; hold({os.getpid()}, {self._read}); "
        return subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
            [sys.executable, "-c", hold + code, *arguments],
            env=environment,
            pass_fds=(self._read, *inherited),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            process_group=0,
        )

    def close(self) -> None:
        """Let go of what has been started, as if this program had ended."""
        os.close(self._write)
        os.close(self._read)


def hold(parent: int, pipe: int) -> None:
    """Ask to be told of the parent's death: first to end in order, GRACE later to end at once."""
    told = _told_by_kernel(parent)
    threading.Thread(target=_watch, args=(pipe, told), daemon=True).start()


def _told_by_kernel(parent: int) -> bool:
    if sys.platform != "linux":
        return False
    asked = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) == 0
    return asked and os.getppid() == parent  # it may have died before we asked


def _watch(pipe: int, told: bool) -> None:
    while os.read(pipe, 1):
        pass  # nobody writes: this returns at the end of the pipe
    if not told:  # twice could be taken for impatience
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
