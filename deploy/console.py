"""What all commands share: how they find the service, and how they speak and end."""

import functools
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

HERE = "http://127.0.0.1:8080"


class Ending(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    JOB_FAILED = 1
    WRONG_USE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def speaks_to_service(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command `client` and `as_json`, from --url, ILLO_URL, ILLO_KEY and --json."""

    @click.option("--url", envvar="ILLO_URL", default=HERE, show_default=True, show_envvar=True,
                  help="Where the service is.")  # fmt: skip
    @click.option("--key", envvar="ILLO_KEY", hidden=True)  # from the environment: `ps` shows flags
    @speaks_json
    @functools.wraps(command)
    def with_client(*args: Any, url: str, key: str | None, **kwargs: Any) -> R:
        from deploy.client import Client

        if not url.startswith(("http://", "https://")):
            raise click.BadParameter("must begin with http:// or https://", param_hint="--url")
        return command(*args, client=Client(url, key=key), **kwargs)

    return with_client


def speaks_json(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `as_json`, from --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")(
        command
    )


def print_json(document: Any, *, err: bool = False) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(document, ensure_ascii=False), err=err)


def say(message: str) -> None:
    """Tell a person something, where it does not mix with results."""
    click.echo(message, err=True)


def command_line(*words: str, url: str = HERE) -> str:
    """Write a command for a person to copy: called as this one was, for the service at a URL."""
    where = [] if url == HERE else ["--url", url]
    return shlex.join([called_as(sys.argv[0]), *words, *where])


def called_as(program: str) -> str:
    """Say how to call illo again: by its name where the shell finds it, else by its path."""
    found = shutil.which("illo")
    if Path(program).name != "illo" or (found and Path(found).resolve() == Path(program).resolve()):
        return "illo"
    return program
