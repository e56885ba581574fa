"""`illo up`: run the API, the workers and the queue on this machine."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, command_line, print_json, say, speaks_json

if TYPE_CHECKING:
    from deploy.local import Running
    from shared.settings import Settings

MISHAPS = ("lose", "double", "delay")


def _mishaps(ctx: click.Context, param: click.Parameter, given: str | None) -> list[str]:
    """Read the odds of mishaps as the push proxy takes them."""
    arguments: list[str] = []
    for part in [] if given is None else given.split(","):
        kind, _, odds = part.partition("=")
        try:
            sound = kind in MISHAPS and 0 <= float(odds) <= 1
        except ValueError:
            sound = False
        if not sound or f"--{kind}" in arguments:
            raise click.BadParameter(
                f"{part!r} is not one of {', '.join(MISHAPS)}, each once, with odds from 0 to 1, "
                "as in lose=0.05"
            )
        arguments += [f"--{kind}", odds]
    return arguments


@click.command()
@click.option("--data", type=click.Path(file_okay=False, path_type=Path),
              help="The folder for everything that is kept.  [ILLO_DATA, data]")  # fmt: skip
@click.option("--host", help="The address to listen on; without keys this machine's own only.  "
              "[127.0.0.1]")  # fmt: skip
@click.option("--port", type=int, help="0 takes a free one.  [PORT, 8080]")
@click.option("--workers", type=int, help="How many draw at once.  [ILLO_WORKERS, 1]")
@click.option(
    "--weights", help="`tiny`, a weights directory, or gs://bucket/prefix.  [ILLO_WEIGHTS, tiny]"
)
@click.option("--backend", help="`embedded`, or `gcp` on emulators.  [ILLO_BACKEND, embedded]")
@click.option("--emulators", is_flag=True,
              help="With --backend gcp: on Google's emulators, which keep nothing.")  # fmt: skip
@click.option("--mishaps", metavar="KIND=ODDS,…", callback=_mishaps,
              help="With --emulators: lose, double or delay pushes, as in "
              "`lose=0.05,double=0.2`.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="Show here what otherwise goes to DATA/logs.")
@speaks_json
def up(
    verbose: bool,
    as_json: bool,
    emulators: bool,
    mishaps: list[str],
    **flags: str | int | Path | None,
) -> int:
    """Run the whole service on this machine, until Ctrl-C.

    Jobs are kept in the data folder: started there again, illo goes on with them.
    """
    from shared.errors import BadSettings

    given = {name: str(value) for name, value in flags.items() if value is not None}
    try:
        if mishaps and not emulators:
            raise click.UsageError("--mishaps befall pushes on --emulators only")
        settings = _settings(given, emulators=emulators)
        return _run(settings, mishaps if emulators else None, verbose=verbose, as_json=as_json)
    except BadSettings as error:
        raise BadSettings(naming_flags(str(error), given)) from None


def naming_flags(complaint: str, flags: Collection[str]) -> str:
    """Name the flag before its variable, in the lines that are about one that was given."""
    from shared.settings import variable

    flag_of = {f"{variable(flag)}:": f"--{flag} ({variable(flag)}):" for flag in flags}
    lines = []
    for line in complaint.splitlines():
        name, space, rest = line.partition(" ")
        lines.append(flag_of.get(name, name) + space + rest)
    return "\n".join(lines)


def _settings(given: Mapping[str, str], *, emulators: bool) -> "Settings":
    from deploy.google import require_emulators
    from shared.settings import Settings, process_environment, variable

    flags = {variable(name): value for name, value in given.items()}
    settings = Settings.read({**process_environment(), **flags})
    require_emulators(settings, wished=emulators)
    return settings


def _run(
    settings: "Settings", mishaps: Sequence[str] | None, *, verbose: bool, as_json: bool
) -> int:
    from deploy.local import Running, run_here

    def announce(running: Running) -> None:
        if as_json:
            print_json(running.document())
        else:
            kept = "nowhere" if mishaps is not None else f"in {settings.data}"
            click.echo(welcome(running, settings, kept=kept))

    def draining() -> None:
        if not as_json:  # who reads JSON is a program: it has no Ctrl-C to press once more
            say("draining: workers give their jobs back; once more ends everything at once")

    drained = run_here(
        settings,
        announce=announce,
        draining=draining,
        say=say,
        verbose=verbose,
        mishaps=mishaps,
    )
    if not as_json:
        say("ended")
    return Ending.DONE if drained else Ending.INTERRUPTED


def welcome(running: "Running", settings: "Settings", *, kept: str) -> str:
    """Say where the service is, and what can be done with it."""
    url, out = running.url, ("-o", "out/")
    size: tuple[str, ...] = ()
    sides = ""
    if settings.weights == "tiny":  # the sizes that the small artist was taught
        size, sides = ("--size", "160x128"), ', "width": 160, "height": 128'
    draw = command_line("draw", "Mia in a storm", "-r", "examples/mia.png", *size, *out, url=url)
    body = f'{{"prompt": "a red creature in the snow"{sides}}}'
    keyed = running.key is not None or settings.keys is not None
    key = f"  export ILLO_KEY={running.key or '…   # one of your keys'}\n" if keyed else ""
    bearer = ' -H "Authorization: Bearer $ILLO_KEY"' if keyed else ""
    figures = "".join(f"\n  {address}" for address in running.metrics)
    return f"""
illo is ready at {url}   (weights: {settings.weights}; jobs are kept {kept})

{key}  {draw}
  {command_line("batch", "examples/storm.yaml", *out, url=url)}
  curl {url}/v1/jobs{bearer} -H 'Content-Type: application/json' -d '{body}'
  curl {url}/v1/queue{bearer}

Each worker tells its figures at:{figures}

Ctrl-C ends it.
"""
