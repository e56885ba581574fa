"""Hold commands against what the installed programs say of themselves; nothing is run but help."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import click

from deploy.root import illo
from tests.deploy.shell_commands import PLAIN, Command

HELP_WITHIN = 120  # seconds; one on an idle machine
TERRAFORM = Path(__file__).parents[2] / "deploy" / "terraform"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_FLAG = re.compile(r"--(\[no-\])?([a-z0-9][a-z0-9-]*)(=?)")


def faults_of(commands: list[Command]) -> list[str]:
    """Say what is wrong with each command; programs answer two at a time."""
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda command: list(CHECKS[command.program](command)), commands)
    return [
        f"{command}: {fault}"
        for command, faults in zip(commands, found, strict=True)
        for fault in faults
    ]


# --- gcloud ---------------------------------------------------------------------------------------


def check_gcloud(command: Command) -> Iterator[str]:
    """Look for the command, its flags, those it needs, and names that Terraform gives."""
    words = [_VARIABLE.sub(lambda found: found[1].lower(), word) for word in command.words]
    flags = [word for word in words if word.startswith("-")]
    said = _help("gcloud", *(word for word in words if word not in flags), "--help")
    synopsis = _between(said, "SYNOPSIS", "DESCRIPTION")
    path = _between(said, "NAME", "SYNOPSIS").partition(" - ")[0].split()
    if not synopsis or re.match(rf"\s+{' '.join(path)} (GROUP|COMMAND)\b", synopsis):
        yield "there is no such command"
        return
    known = _flags_in(synopsis) | _gcloud_wide()
    for flag in flags:
        name, equals, _ = flag.removeprefix("--").partition("=")
        if name not in known:
            yield f"there is no flag --{name}"
        elif known[name] != bool(equals):
            yield f"--{name} " + ("needs a value, after =" if known[name] else "takes no value")
    needed = _without_brackets(synopsis)
    given = {flag.removeprefix("--").partition("=")[0] for flag in flags}
    yield from (f"--{name} is missing" for name in _flags_in(needed).keys() - given)
    positional = [word for word in words if not word.startswith("-")][len(path) - 1 :]
    wanted = [word for word in _FLAG.sub("", needed).split() if re.fullmatch(r"[A-Z_/]+", word)]
    if len(positional) < len(wanted):
        yield f"{' '.join(wanted[len(positional) :])} is missing"
    if positional and not re.search(r"[\[( ][A-Z_]{3,}", _without_values(synopsis)):
        yield f"{positional[0]!r} is nothing that it takes"
    yield from _unknown_names(positional, flags)


@cache
def _gcloud_wide() -> dict[str, bool]:
    return {**_flags_in(_between(_help("gcloud", "--help"), "SYNOPSIS", "DESCRIPTION"))}


def _flags_in(synopsis: str) -> dict[str, bool]:
    """Name the flags of a synopsis, each with whether it takes a value."""
    found: dict[str, bool] = {}
    for no, name, equals in _FLAG.findall(synopsis):
        found[name] = bool(equals)
        if no:
            found[f"no-{name}"] = False
    return found


def _without_brackets(synopsis: str) -> str:
    """Leave what is neither optional nor one of several; values in brackets go, too."""
    left, depth = [], 0
    for sign in synopsis.partition("gcloud ")[2]:
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(sign, 0)
        if not depth and sign not in "])":
            left.append(sign)
    return re.sub(r"(--[a-z0-9-]+=)\S+", r"\1", "".join(left))


def _without_values(synopsis: str) -> str:
    return re.sub(r"--\S+", "", synopsis.replace("GCLOUD_WIDE_FLAG", ""))


def _unknown_names(positional: list[str], flags: list[str]) -> Iterator[str]:
    """Find names of ours that Terraform does not give to anything."""
    declared = "".join(file.read_text() for file in TERRAFORM.glob("*.tf"))
    words = [*positional, *(flag.partition("=")[2] for flag in flags)]
    for name in words:
        if re.fullmatch(r"illo-[a-z-]*[a-z]", name) and f'"{name}"' not in declared:
            yield f"Terraform names nothing {name}"


# --- terraform and docker -------------------------------------------------------------------------


def check_terraform(command: Command) -> Iterator[str]:
    """Look for the command, its flags, and the outputs that are asked for."""
    before = [word for word in command.words if word.startswith("-chdir=")]
    name, *given = [word for word in command.words if word not in before]
    for word in before:
        if word != "-chdir=deploy/terraform":
            yield f"there is nothing of ours in {word.removeprefix('-chdir=')}"
    said = _help("terraform", name, "-help")
    if not re.match(rf"Usage: terraform \[global options\] {re.escape(name)}\b", said.lstrip()):
        yield "there is no such command"
        return
    known = set(re.findall(r"^\s+-([a-z-]+)", said, re.MULTILINE))
    for word in given:
        flag = word.removeprefix("-").partition("=")[0]
        if word.startswith("-") and flag not in known:
            yield f"there is no flag -{flag}"
    outputs = (TERRAFORM / "outputs.tf").read_text()
    for word in given if name == "output" else ():
        if not word.startswith("-") and f'output "{word}"' not in outputs:
            yield f"there is no output {word}"


def check_docker(command: Command) -> Iterator[str]:
    """Look for the command and its flags."""
    words = list(command.words)
    path = [words.pop(0)]
    if path == ["image"]:
        path.append(words.pop(0))
    said = _help("docker", *path, "--help")
    if not re.search(rf"^Usage:\s+docker {re.escape(' '.join(path))} ", said, re.MULTILINE):
        yield "there is no such command"
        return
    known = dict(re.findall(r"^ +(?:-\w, )?--([a-z-]+)( [a-z]+)?", said, re.MULTILINE))
    for word in words:
        if word.startswith("-") and word.removeprefix("--").partition("=")[0] not in known:
            yield f"there is no flag {word}"


# --- illo -----------------------------------------------------------------------------------------


def check_illo(command: Command) -> Iterator[str]:
    """Let click read the words: options, arguments, and choices; nothing is called."""
    found: click.Command = illo
    words = list(command.words)
    while isinstance(found, click.Group):
        context = click.Context(found)
        child = found.get_command(context, words[0]) if words else None
        if child is None:
            yield f"there is no such command as {words[0] if words else 'that'}"
            return
        found, words = child, words[1:]
    context = click.Context(found)
    try:
        values, rest, _ = found.make_parser(context).parse_args(words)
    except click.UsageError as wrong:
        yield wrong.format_message()
        return
    if rest:
        yield f"{rest[0]!r} is nothing that it takes"
    for param in found.params:
        value = values.get(param.name or "")
        given = (
            [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        )
        if param.required and not given:
            yield f"{param.name} is missing"
        if isinstance(param.type, click.Choice):
            choices = param.type.choices
            yield from (f"{each!r} is no choice" for each in given if each not in choices)


# --- help -----------------------------------------------------------------------------------------


def _between(text: str, start: str, end: str) -> str:
    found = re.search(rf"^{start}\n(.*?)^{end}", text + f"\n{end}", re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@cache
def _help(*words: str) -> str:
    """Ask a program for help, once for the same words; nothing of the user's is read."""
    environment = {
        **os.environ,
        "CLOUDSDK_CONFIG": str(Path(tempfile.gettempdir()) / "illo-rehearsal"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
    }
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=HELP_WITHIN, env=environment, check=False
    )
    return _ESCAPES.sub("", ended.stdout)


def _allowed(command: Command) -> Iterator[str]:
    """Let a program of everybody's system pass."""
    return iter(())


CHECKS: Mapping[str, Callable[[Command], Iterator[str]]] = {
    "gcloud": check_gcloud,
    "terraform": check_terraform,
    "docker": check_docker,
    "illo": check_illo,
    **dict.fromkeys(PLAIN, _allowed),
}
