"""`illo weights train-tiny`: teach the small artist, whose weights the package brings."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, command_line, print_json, say, speaks_json

if TYPE_CHECKING:
    from worker.pipeline.artist.training import Made

MINUTES = 180.0  # of two cores that have nothing else to do


@click.command("train-tiny")
@click.argument("directory", type=click.Path(file_okay=False, resolve_path=True, path_type=Path))
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=MINUTES,
              show_default=True,
              help="How long to teach, what came before --resume included.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with what was taught before.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="What pictures, captions and first weights are drawn from.")  # fmt: skip
@click.option("--device", help="As torch names it: cpu, cuda.  [cuda where there is one]")
@speaks_json
def train_tiny(
    directory: Path, minutes: float, resume: bool, seed: int, device: str | None, as_json: bool
) -> int:
    """Teach the small artist from nothing, and write its weights to DIRECTORY.

    What was taught is saved every minute beside DIRECTORY, with sheets of what it draws by then
    and the losses. Ended by Ctrl-C or a kill, --resume goes on; with more --minutes it goes on
    after the end, too. Between the VAE and the rest 8,164 stories are drawn and encoded:
    that comes on top of the minutes, however few they are.
    """
    try:
        from worker.pipeline.artist.training import train, workbench_of
    except ModuleNotFoundError as error:
        say(f"illo: {error.name} is not installed; install illo with its worker: illo[worker]")
        return Ending.WRONG_USE
    from deploy.progress import Display

    try:
        with Display() as display:
            made = train(
                directory,
                minutes=minutes,
                seed=seed,
                device=device,
                resume=resume,
                on_step=lambda what, fraction, detail: display.show(what, detail, fraction),
                on_sheet=lambda path: say(f"a sheet of what it draws: {path}"),
            )
    except KeyboardInterrupt:
        say(f"illo: what was taught is in {workbench_of(directory)}; go on with")
        options = ["--minutes", str(minutes), "--seed", str(seed), "--resume"]
        where = ["--device", device] if device else []
        say(f"  {command_line('weights', 'train-tiny', str(directory), *options, *where)}")
        return Ending.INTERRUPTED
    _tell(directory, made, as_json)
    return Ending.DONE


def _tell(directory: Path, made: "Made", as_json: bool) -> None:
    manifest, size = made.manifest, sum(file.bytes for file in made.manifest.files)
    if as_json:
        print_json({
            "path": str(directory), "label": manifest.label, "sha256": manifest.sha256,
            "bytes": size, "decibels": round(made.decibels, 2),
        })  # fmt: skip
    else:
        click.echo(f"{directory}: {manifest.label}, {size:,} bytes")
        click.echo(f"  the VAE's way there and back: {made.decibels:.1f} dB")
