"""`illo up`: run the API, the workers and the queue on this machine."""

from collections.abc import Collection
from pathlib import Path

import click

from deploy.console import Ending, command_line, print_json, say, speaks_json


@click.command()
@click.option("--data", type=click.Path(file_okay=False, path_type=Path),
              help="The folder for everything that is kept.  [ILLO_DATA, data]")  # fmt: skip
@click.option("--host", help="The address to listen on; this machine's own only.  [127.0.0.1]")
@click.option("--port", type=int, help="0 takes a free one.  [PORT, 8080]")
@click.option("--workers", type=int, help="How many draw at once.  [ILLO_WORKERS, 1]")
@click.option("--weights", help="`tiny`, or a weights directory.  [ILLO_WEIGHTS, tiny]")
@click.option("--verbose", is_flag=True, help="Show here what otherwise goes to DATA/logs.")
@speaks_json
def up(verbose: bool, as_json: bool, **flags: str | int | Path | None) -> int:
    """Run the whole service on this machine, until Ctrl-C.

    Jobs are kept in the data folder: started there again, illo goes on with them.
    """
    from shared.errors import BadSettings

    given = {name: str(value) for name, value in flags.items() if value is not None}
    try:
        return _run(given, verbose=verbose, as_json=as_json)
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


def _run(given: dict[str, str], *, verbose: bool, as_json: bool) -> int:
    from deploy.local import Running, run_here
    from shared.settings import Settings, process_environment, variable

    flags = {variable(name): value for name, value in given.items()}
    settings = Settings.read({**process_environment(), **flags})

    def announce(running: Running) -> None:
        if as_json:
            print_json(running.document())
        else:
            click.echo(_welcome(running.url, settings.data, settings.weights))

    def draining() -> None:
        if not as_json:  # who reads JSON is a program: it has no Ctrl-C to press once more
            say("draining: workers give their jobs back; once more ends everything at once")

    drained = run_here(settings, announce=announce, draining=draining, say=say, verbose=verbose)
    if not as_json:
        say("ended")
    return Ending.DONE if drained else Ending.INTERRUPTED


def _welcome(url: str, data: Path, weights: str) -> str:
    out = ("-o", "out/")
    draw = command_line("draw", "Mia hides under the bed", "-r", "examples/mia.png", *out, url=url)
    return f"""
illo is ready at {url}   (weights: {weights}, kept in {data})

  {draw}
  {command_line("batch", "examples/storm.yaml", *out, url=url)}
  curl {url}/v1/jobs -H 'Content-Type: application/json' -d '{{"prompt": "a red kite"}}'
  curl {url}/v1/queue

Ctrl-C ends it; queued jobs are kept.
"""
