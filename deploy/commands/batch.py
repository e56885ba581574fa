"""`illo batch`: have the scenes of a file drawn and save the results."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.arguments import out_option
from deploy.console import Ending, command_line, print_json, say, speaks_to_service

if TYPE_CHECKING:
    from deploy.client import Client


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@out_option(default="out", help="Where to save the pictures.")
@speaks_to_service
def batch(client: "Client", file: Path, out: Path, as_json: bool) -> int:
    """Draw the scenes of FILE, a batch in YAML or JSON.

    References may be paths relative to the file. Results are OUT/<key>.<ext>,
    OUT/contact-sheet.png and OUT/results.jsonl, instead of files of these names
    that are there. Where two keys would be one file, as page and Page are on
    some disks, the second gets a ~ and a number.
    """
    from deploy.story import submit_file

    submitted = submit_file(client, file)
    say(submitted["id"])
    return see_through(client, submitted["id"], out, as_json=as_json)


def see_through(client: "Client", id: str, out: Path | None, *, as_json: bool) -> int:
    """Follow a batch to its end, save and print its results, and say how the command ends."""
    from deploy.leaving import coming_back
    from deploy.story import wait_for_batch

    with coming_back(client, id, out):
        ended = wait_for_batch(client, id)
        return finish_batch(client, ended, out, as_json=as_json)


def finish_batch(
    client: "Client", ended: dict[str, Any], out: Path | None, *, as_json: bool
) -> int:
    """Save an ended batch's results, print where they are, and say how the command ends."""
    from deploy.story import save_batch

    scenes = save_batch(client, ended["id"], out) if out else []
    files = [str(file) for scene in scenes for file in scene.files]
    if as_json:
        print_json({**ended, "files": files})
    else:
        for file in files:
            click.echo(file)
    for scene in scenes:
        if scene.result["status"] != "succeeded":
            error = scene.result["error"]
            why = f": {error['message']}" if error else ""
            say(f"{scene.result['key']} {scene.result['status']}{why}")
    if ended["status"] == "completed":
        return Ending.DONE
    say(f"{ended['id']}: {ended['status'].replace('_', ' ')}; draw again what is missing with:")
    say(f"  {command_line('reprocess', ended['id'], '--failed', url=client.url)}")
    return Ending.JOB_FAILED
