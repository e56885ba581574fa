"""`illo weights prepare`: make a weights directory from the files that people download."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, print_json, speaks_json

if TYPE_CHECKING:
    from worker.pipeline.weights.prepare import Prepared

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--transformer", type=FILE, required=True,
              help="FLUX.1-Kontext-dev's transformer, one .gguf file.")  # fmt: skip
@click.option("--t5", type=FILE, multiple=True, metavar="FILE",
              help="T5's encoder: one .gguf file, or its .safetensors, each with a --t5 of its "
              "own.  [the diffusers folder's]")  # fmt: skip
@click.option("--from", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              required=True, help="The diffusers folder, for all the rest.")  # fmt: skip
@click.option("-o", "--out", type=FOLDER, required=True, help="The folder to make.")
@click.option("--label", help="What jobs and pictures call these weights.  "
              "[the model and most bytes' type]")  # fmt: skip
@click.option("--link", "way", flag_value="link",
              help="Share the large files with the downloads, or refuse.")  # fmt: skip
@click.option("--copy", "way", flag_value="copy", help="Copy every file, also where they could "
              "be shared.")  # fmt: skip
@speaks_json
def prepare(
    transformer: Path,
    t5: tuple[Path, ...],
    folder: Path,
    out: Path,
    label: str | None,
    way: str | None,
    as_json: bool,
) -> int:
    """Make a weights directory from downloaded files.

    All headers are judged first. Large files share their bytes with the downloads where the disk
    allows it, and are copied elsewhere; the folder appears whole or not at all.
    """
    from deploy.progress import Display
    from worker.pipeline.weights.placing import Way
    from worker.pipeline.weights.prepare import MAX_LABEL, prepare_weights

    if label is not None and not 0 < len(label.strip()) <= MAX_LABEL:
        raise click.BadParameter(f"must have 1 to {MAX_LABEL} characters", param_hint="--label")
    with Display() as display:
        prepared = prepare_weights(
            transformer,
            t5,
            folder,
            out,
            label=None if label is None else label.strip(),
            way=Way(way or Way.AUTO),
            on_file=lambda name, fraction: display.show(name, "", fraction),
        )
    if as_json:
        print_json(_document(prepared))
    else:
        _tell(prepared)
    return Ending.DONE


def _document(prepared: "Prepared") -> dict[str, object]:
    manifest = prepared.manifest
    return {
        "path": str(prepared.directory),
        "label": manifest.label,
        "sha256": manifest.sha256,
        "bytes": sum(file.bytes for file in manifest.files),
        "copied_bytes": prepared.copied_bytes,
        "shared": list(prepared.shared),
        "name_or_path": prepared.origin,
        "files": [
            {"path": file.path, "bytes": file.bytes, "quantization": file.quantization}
            for file in manifest.files
        ],
    }


def _tell(prepared: "Prepared") -> None:
    manifest = prepared.manifest
    size = sum(file.bytes for file in manifest.files)
    click.echo(f"{prepared.directory}: {manifest.label}, {size:,} bytes")
    click.echo(f"  sha256 {manifest.sha256}")
    for file in manifest.files:
        kind = f", {file.quantization}" if file.quantization else ""
        shared = ", shared with the download" if file.path in prepared.shared else ""
        click.echo(f"  {file.path}  {file.bytes:,} bytes{kind}{shared}")
    if prepared.origin:
        click.echo(f"  the transformer's config says it is from {prepared.origin!r}")
