"""`illo weights`: make the tiny ones, or say what weights are from their headers."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, print_json, say, speaks_json

if TYPE_CHECKING:
    from worker.pipeline.weights.inspect import Inspection


@click.group()
def weights() -> None:
    """Make or inspect weights."""


@weights.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@speaks_json
def tiny(directory: Path, as_json: bool) -> int:
    """Make the tiny weights in DIRECTORY: the true layout in 1.5 MB."""
    try:
        from worker.pipeline.tiny import make_tiny_weights
    except ModuleNotFoundError as error:
        say(f"illo: {error.name} is not installed; install illo with its worker: illo[worker]")
        return Ending.WRONG_USE
    manifest = make_tiny_weights(directory)
    if as_json:
        print_json({"path": str(directory), "label": manifest.label, "sha256": manifest.sha256})
    else:
        click.echo(f"{directory}: {manifest.label}")
    return Ending.DONE


@weights.command()
@click.argument("path", type=click.Path(path_type=Path))
@speaks_json
def inspect(path: Path, as_json: bool) -> int:
    """Say what the weights at PATH are, a directory or a GGUF file; ends with 1 if unusable."""
    from worker.pipeline.weights.inspect import inspect_weights

    found = inspect_weights(path)
    if as_json:
        print_json(asdict(found))
    else:
        _tell(found)
    if found.problem:
        say(f"illo: {found.problem}")
        return Ending.JOB_FAILED
    return Ending.DONE


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
