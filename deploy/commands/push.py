"""`illo weights push`: put weights into a bucket, and go on where an earlier push ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, command_line, print_json, say, speaks_json

if TYPE_CHECKING:
    from shared.cloud_folders import CloudFolder
    from worker.pipeline.weights.push import Pushed

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("place")
@click.option("--replace", "replacing", is_flag=True,
              help="Also where the folder has other weights.")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 64), default=8, show_default=True,
              help="Parts that are sent at once; each takes some 50 MB of memory.")  # fmt: skip
@speaks_json
def push(directory: Path, place: str, replacing: bool, connections: int, as_json: bool) -> int:
    """Put the weights of DIRECTORY into a bucket, at PLACE: gs://bucket/prefix.

    The manifest comes last: until then nothing there counts as weights. After whatever end, the
    same command goes on; what lies there and has the right checksum is not sent again.
    """
    folder = _folder(place)
    with _coming_back(directory, folder, replacing=replacing):
        pushed = _push(directory, folder, replacing=replacing, connections=connections)
    if as_json:
        print_json(
            {**asdict(pushed), "sent_files": [*pushed.sent_files], "replaced": [*pushed.replaced]}
        )
    else:
        _tell(pushed)
    return Ending.DONE


def _folder(place: str) -> "CloudFolder":
    from shared.cloud_folders import read_cloud_folder

    try:
        folder = read_cloud_folder(place)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="PLACE") from None
    if folder is None:
        raise click.BadParameter("must be gs://bucket/prefix", param_hint="PLACE")
    return folder


def _push(directory: Path, folder: "CloudFolder", *, replacing: bool, connections: int) -> "Pushed":
    from deploy.progress import Display
    from shared.settings import process_environment

    try:
        from worker.pipeline.weights.push import push_weights
    except ModuleNotFoundError as missing:
        raise click.UsageError(
            f"{missing.name} is not installed; install illo with what a bucket needs: illo[gcp]"
        ) from None
    with Display() as display:
        return push_weights(
            directory,
            folder,
            emulator=process_environment().get("STORAGE_EMULATOR_HOST"),
            replacing=replacing,
            connections=connections,
            on_file=lambda name, fraction: display.show(name, "", fraction),
        )


@contextmanager
def _coming_back(directory: Path, folder: "CloudFolder", *, replacing: bool) -> Iterator[None]:
    from shared.errors import WeightsUnreachable

    wish = ["--replace"] if replacing else []
    again = command_line("weights", "push", str(directory), str(folder), *wish)
    try:
        yield
    except (KeyboardInterrupt, WeightsUnreachable):
        say(f"\nWhat has arrived is not sent again. Go on with:\n  {again}")
        raise


def _tell(pushed: "Pushed") -> None:
    click.echo(f"{pushed.place}: {pushed.label}, {pushed.files} files, {pushed.bytes:,} bytes")
    click.echo(f"  sha256 {pushed.sha256}")
    if pushed.sent_bytes:
        click.echo(f"  sent {pushed.sent_bytes:,} bytes; every checksum is the manifest's")
    else:
        click.echo("  everything was there already; every checksum is the manifest's")
    for name in pushed.replaced:
        click.echo(f"  replaced {name}")
