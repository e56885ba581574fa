"""The way into `illo`: it imports nothing of weight, so that a Ctrl-C is heard from the start."""

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit."""
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader left; without this Python complains once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code. What can be expected to go wrong is a message."""
    try:
        from deploy.root import run_command

        return run_command(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
