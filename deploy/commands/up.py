"""`illo up`: run the API, the workers and the queue on this machine."""

from pathlib import Path

import click

from deploy.console import Ending, print_json, say, speaks_json


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
    from deploy.local import Running, run_here
    from shared.settings import Settings, process_environment, variable

    given = {variable(name): str(value) for name, value in flags.items() if value is not None}
    settings = Settings.read({**process_environment(), **given})

    def announce(running: Running) -> None:
        if as_json:
            print_json(running.document())
        else:
            click.echo(_welcome(running.url, settings.data, settings.weights))

    drained = run_here(settings, announce=announce, say=say, verbose=verbose)
    say("ended")
    return Ending.DONE if drained else Ending.INTERRUPTED


def _welcome(url: str, data: Path, weights: str) -> str:
    return f"""
illo is ready at {url}   (weights: {weights}, kept in {data})

  illo draw "Mia hides under the bed" -r examples/mia.png -o out/
  illo batch examples/storm.yaml -o out/
  curl {url}/v1/jobs -H 'Content-Type: application/json' -d '{{"prompt": "a red kite"}}'
  curl {url}/v1/queue

Ctrl-C ends it; queued jobs are kept.
"""
