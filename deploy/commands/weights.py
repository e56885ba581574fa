"""`illo weights`: copy the tiny ones, or say what weights are and what is wrong with them.

What makes, verifies and pushes others has files of its own.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.commands.prepare import prepare
from deploy.commands.push import push
from deploy.commands.train_tiny import train_tiny
from deploy.commands.verify import verify
from deploy.console import Ending, print_json, say, speaks_json

if TYPE_CHECKING:
    from shared.manifest import Manifest
    from worker.pipeline.weights.inspect import Inspection

DIGESTED_BELOW = 10**9  # bytes; that takes a second or two


@click.group()
def weights() -> None:
    """Make, train, inspect, verify or push weights."""


weights.add_command(prepare)
weights.add_command(verify)
weights.add_command(push)
weights.add_command(train_tiny)


@weights.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--random", is_flag=True, help="Weights that know nothing, of 1 MB: for tests.")
@speaks_json
def tiny(directory: Path, random: bool, as_json: bool) -> int:
    """Put the small artist that illo brings into DIRECTORY, in the full size's layout."""
    from shared.settings import SMALL_ARTIST
    from worker.pipeline.weights.copying import copy_weights

    try:
        manifest = _random_ones(directory) if random else copy_weights(SMALL_ARTIST, directory)
    except ModuleNotFoundError as error:
        say(f"illo: {error.name} is not installed; install illo with its worker: illo[worker]")
        return Ending.WRONG_USE
    if as_json:
        print_json({"path": str(directory), "label": manifest.label, "sha256": manifest.sha256})
    else:
        click.echo(f"{directory}: {manifest.label}")
    return Ending.DONE


def _random_ones(directory: Path) -> "Manifest":
    from worker.pipeline.tiny import make_tiny_weights

    return make_tiny_weights(directory)


@weights.command()
@click.argument("path", type=click.Path(path_type=Path))
@speaks_json
def inspect(path: Path, as_json: bool) -> int:
    """Say what the weights at PATH are, a directory or a GGUF file; ends with 1 if unusable.

    Checks the manifest, names, sizes and headers; in a directory below 1 GB every byte as well. A
    worker checks every byte's CRC whenever it loads.
    """
    from worker.pipeline.weights.inspect import inspect_weights

    found = inspect_weights(path)
    every_byte = path.is_dir() and not found.problem and found.bytes < DIGESTED_BELOW
    if every_byte:
        found = replace(found, problem=_wrong_bytes(path))
    if as_json:
        print_json({**asdict(found), "every_byte_checked": every_byte})
    else:
        _tell(found)
        if not (every_byte or found.problem):
            click.echo("  not every byte was read; a worker does that when it loads")
    if found.problem:
        say(f"illo: {found.problem}")
        return Ending.JOB_FAILED
    return Ending.DONE


def _wrong_bytes(directory: Path) -> str | None:
    from shared.errors import WeightsError
    from shared.manifest import read_manifest
    from worker.pipeline.weights.files import check_files

    try:
        check_files(directory, read_manifest(directory), digests=True)
    except WeightsError as error:
        return str(error)
    return None


def _tell(found: "Inspection") -> None:
    click.echo(f"{found.path}: {found.label or 'no label'}, {found.bytes:,} bytes")
    for file in found.gguf:
        counts = ", ".join(f"{count} {kind}" for kind, count in file.quantizations.items())
        click.echo(f"  {file.path}")
        click.echo(f"    {file.verdict}")
        click.echo(f"    {file.parameters:,} parameters in {file.tensors} tensors: {counts}")
        if file.image_input:
            sides = " × ".join(map(str, file.image_input))
            click.echo(f"    image input {sides} ({file.image_input_type}), blocks {file.blocks}")
