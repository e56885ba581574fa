"""The `illo` command line: its commands, each imported when it is used, and how they end."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import click

from deploy.console import Ending, say
from shared.errors import (
    BadBatchFile,
    BadSettings,
    DataInUse,
    IlloError,
    RequestRefused,
    ServiceUnreachable,
)

# name -> where it is, and its line in `illo --help`, which therefore imports none of them
COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("deploy.commands.up:up", "Run the whole service on this machine."),
    "demo": ("deploy.commands.demo:demo", "Draw a story of six scenes and show the pictures."),
    "draw": ("deploy.commands.draw:draw", "Draw one prompt."),
    "batch": ("deploy.commands.batch:batch", "Draw the scenes of a file."),
    "reprocess": ("deploy.commands.reprocess:reprocess", "Draw scenes of a batch again."),
    "status": ("deploy.commands.jobs:status", "Show a job or a batch."),
    "jobs": ("deploy.commands.jobs:jobs", "List jobs, newest first."),
    "cancel": ("deploy.commands.jobs:cancel", "Cancel a job or a batch."),
    "queue": ("deploy.commands.queue:queue", "Show, pause, resume or drain the queue."),
    "weights": ("deploy.commands.weights:weights", "Make or inspect weights."),
}


class LazyGroup(click.Group):
    """A group that imports a command when somebody uses it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="illo", message="illo %(version)s")
def illo() -> None:
    """Draw the same character again and again, in different scenes.

    Exit codes: 0 done, 1 a job failed, 2 wrong use, 3 the service cannot be reached.
    """


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
        ended = illo.main(list(arguments), prog_name="illo", standalone_mode=False)
    except click.exceptions.Abort:
        return Ending.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ServiceUnreachable as error:
        return _refused(error, Ending.UNREACHABLE)
    except (BadBatchFile, BadSettings, DataInUse, RequestRefused) as error:
        return _refused(error, Ending.WRONG_USE)
    except (IlloError, OSError) as error:
        return _refused(error, Ending.JOB_FAILED)
    return int(ended or 0)


def _refused(error: Exception, ending: Ending) -> Ending:
    say(f"illo: {error}")
    return ending
