"""The `illo` command: its commands, each imported when it is used, and how they end."""

import importlib
from collections.abc import Mapping, Sequence

import click

from deploy.console import Ending, print_json, say
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
    "keys": ("deploy.commands.keys:keys", "Make, list or revoke API keys."),
    "weights": ("deploy.commands.weights:weights", "Make, inspect, verify or push weights."),
    "doctor": ("deploy.commands.doctor:doctor", "Say what is wrong here, and what to do."),
    "indexes": ("deploy.commands.indexes:indexes", "List the indexes that Firestore needs."),
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

    Exit codes: 0 done, 1 a job failed, 2 wrong use, 3 the service cannot be reached,
    130 interrupted by Ctrl-C.
    """


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code. What can be expected to go wrong is a message."""
    try:
        ended = illo.main(list(arguments), prog_name="illo", standalone_mode=False)
    except click.exceptions.Abort:
        return Ending.INTERRUPTED
    except (click.ClickException, IlloError, OSError) as error:
        ending = ending_of(error)
        if wants_json(arguments):
            print_json(error_document(error, ending), err=True)
        elif isinstance(error, click.ClickException):
            error.show()
        else:
            say(f"illo: {error}")
        return ending
    return int(ended or 0)


def ending_of(error: Exception) -> int:
    """Say how a command ends that could not do what it was asked."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, ServiceUnreachable):
        return Ending.UNREACHABLE
    if isinstance(error, BadBatchFile | BadSettings | DataInUse | RequestRefused):
        return Ending.WRONG_USE
    return Ending.JOB_FAILED


def error_document(error: Exception, ending: int) -> dict[str, dict[str, str]]:
    """Write an error for programs; the code is the service's, or else says how illo ends."""
    code = Ending(ending).name.lower()
    if isinstance(error, RequestRefused):
        code = error.code
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return {"error": {"message": message, "code": code}}


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, also one that cannot be understood otherwise."""
    options = list(arguments)
    return "--json" in (options[: options.index("--")] if "--" in options else options)
