"""`illo draw`: have one prompt drawn and save the pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.console import Ending, print_json, say, speaks_to_service
from deploy.scene_options import scene_fields, scene_options

if TYPE_CHECKING:
    from deploy.client import Client


@click.command()
@click.argument("prompt")
@click.option("-r", "--reference", "references", multiple=True,
              help="A picture to keep to, or the id of an uploaded one.")  # fmt: skip
@scene_options
@click.option("--seed", type=int, help="The same seed gives the same picture.")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), default="out",
              show_default=True, help="Where to save the pictures.")  # fmt: skip
@speaks_to_service
def draw(
    client: "Client",
    prompt: str,
    references: tuple[str, ...],
    size: tuple[int, int] | None,
    out: Path,
    as_json: bool,
    **given: object,
) -> int:
    """Draw PROMPT and save the pictures as OUT/<job id>.<ext>."""
    from deploy.following import follow_job
    from deploy.progress import Display

    fields = scene_fields(size, prompt=prompt, **given)
    fields["references"] = [_asset(client, name) for name in references]
    job = client.post("/v1/jobs", fields).json()
    say(job["id"])
    try:
        with Display() as display:
            job = follow_job(client, job["id"], display.show)
    except KeyboardInterrupt:
        return _left(job["id"], out)
    return finish_job(client, job, out, as_json=as_json)


def finish_job(client: "Client", job: dict[str, object], out: Path | None, *, as_json: bool) -> int:
    """Save an ended job's pictures, print where they are, and say how the command ends."""
    from deploy.results import save_images

    images = job["images"]
    assert isinstance(images, list)
    files = save_images(client, images, out, str(job["id"])) if out else []
    if as_json:
        print_json({**job, "files": [str(file) for file in files]})
    else:
        for file in files:
            click.echo(file)
    if job["status"] == "succeeded":
        return Ending.DONE
    error = job["error"]
    assert isinstance(error, dict | None)
    say(f"{job['id']} {job['status']}" + (f": {error['message']}" if error else ""))
    return Ending.JOB_FAILED


def _asset(client: "Client", name: str) -> str:
    from deploy.batch_file import is_asset

    if is_asset(name):
        return name
    if not Path(name).is_file():
        raise click.BadParameter(f"there is no file {name!r}", param_hint="--reference")
    return str(client.upload(Path(name))["id"])


def _left(id: str, out: Path) -> Ending:
    say(f"\n{id} goes on without you. Come back with:\n  illo status {id} --wait -o {out}")
    say(f"or end it with:\n  illo cancel {id}")
    return Ending.INTERRUPTED
