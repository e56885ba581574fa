"""`illo weights verify`: hold weights against their manifest, in a folder or in a bucket."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, print_json, say, speaks_json

if TYPE_CHECKING:
    from deploy.progress import Display
    from worker.pipeline.weights.verify import Verification


@click.command()
@click.argument("place")
@click.option("--every-byte", is_flag=True,
              help="Of a bucket: download everything and digest it.")  # fmt: skip
@speaks_json
def verify(place: str, every_byte: bool, as_json: bool) -> int:
    """Say whether the weights at PLACE, a folder or gs://bucket/prefix, are whole.

    Of a folder every byte is read. Of a bucket: names, sizes, the checksums that it tells, and the
    headers. Ends with 1 if anything is wrong.
    """
    from deploy.progress import Display

    with Display() as display:
        found = _verify(place, every_byte, display)
    if as_json:
        print_json({**asdict(found), "problems": list(found.problems), "notes": list(found.notes)})
    else:
        how = "every byte was read" if found.every_byte else "names, sizes, checksums and headers"
        state = "whole" if not found.problems else f"{len(found.problems)} problems"
        click.echo(f"{found.path}: {found.label}, {found.files} files, {found.bytes:,} bytes")
        click.echo(f"  {state}: {how}")
        for note in found.notes:
            click.echo(f"  {note}")
    for problem in found.problems:
        say(f"illo: {problem}")
    return Ending.JOB_FAILED if found.problems else Ending.DONE


def _verify(place: str, every_byte: bool, display: "Display") -> "Verification":
    from shared.cloud_folders import read_cloud_folder
    from shared.settings import process_environment
    from worker.pipeline.weights.verify import verify_folder

    def show(name: str, fraction: float) -> None:
        display.show(name, "", fraction)

    try:
        folder = read_cloud_folder(place)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="PLACE") from None
    if folder is None:
        return verify_folder(Path(place), on_file=show)
    try:
        from worker.pipeline.weights.verify_bucket import verify_bucket

        return verify_bucket(
            folder,
            emulator=process_environment().get("STORAGE_EMULATOR_HOST"),
            every_byte=every_byte,
            on_file=show,
        )
    except ModuleNotFoundError as missing:
        raise click.UsageError(
            f"{missing.name} is not installed; install illo with what a bucket needs: "
            "illo[gcp], for --every-byte illo[gcp,worker]"
        ) from None
