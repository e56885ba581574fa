"""Run a command with all that it starts as one group, which ends as a whole."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LOOK_EVERY = 1.0  # seconds; to notice that the command has ended and left somebody behind

_LEAD = "from deploy.groups import lead; lead()"


@contextmanager
def group(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the block lasts; everything of it ends at once, without being asked.

    So it does when the command ends by itself, and when this program is killed.
    """
    read, write = os.pipe()  # we alone can write: who reads it comes to the end when we die
    try:
        with log.open("ab") as opened:
            program = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
                [sys.executable, "-c", _LEAD, str(read), *command],
                env=environment,
                pass_fds=(read,),
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=opened,
                process_group=0,
            )
        try:
            yield program
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    finally:
        os.close(read)
        os.close(write)


def lead() -> None:
    """Become the command named after the pipe's number, watched by a fork of this program."""
    pipe, command, leader = int(sys.argv[1]), sys.argv[2:], os.getpid()
    # The command has to lead the group: gcloud would leave any other for one of its own.
    if os.fork() == 0:
        _watch(pipe, leader)
    os.close(pipe)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def _watch(pipe: int, leader: int) -> None:
    while os.getppid() == leader:
        ended, _, _ = select.select([pipe], [], [], LOOK_EVERY)
        if ended:
            break
    os.killpg(0, signal.SIGKILL)
