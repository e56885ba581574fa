"""`illo draw`: have one prompt drawn and save the pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.arguments import out_option
from deploy.console import Ending, print_json, say, speaks_to_service
from deploy.scene_options import NEW_SCENE, scene_fields, scene_options

if TYPE_CHECKING:
    from deploy.client import Client


@click.command()
@click.argument("prompt")
@click.option("-r", "--reference", "references", multiple=True,
              help="A picture to keep to, or the id of an uploaded one; repeatable.")  # fmt: skip
@scene_options(NEW_SCENE)
@click.option("--seed", type=int, help="The same seed gives the same picture.")
@out_option(default="out", help="Where to save the pictures.")
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
    fields = scene_fields(size, prompt=prompt, **given)
    fields["references"] = [_asset(client, name) for name in references]
    job = client.post("/v1/jobs", fields).json()
    say(job["id"])
    return see_job_through(client, job["id"], out, as_json=as_json)


def see_job_through(client: "Client", id: str, out: Path | None, *, as_json: bool) -> int:
    """Follow a job to its end, save and print its pictures, and say how the command ends."""
    from deploy.leaving import coming_back

    with coming_back(client, id, out):
        return finish_job(client, wait_for_job(client, id), out, as_json=as_json)


def wait_for_job(client: "Client", id: str) -> Any:
    """Show a job's progress until it has ended; return it."""
    from deploy.following import follow_job
    from deploy.progress import Display

    with Display() as display:
        return follow_job(client, id, display.show)


def finish_job(client: "Client", job: dict[str, Any], out: Path | None, *, as_json: bool) -> int:
    """Save an ended job's pictures, print where they are, and say how the command ends."""
    from deploy.results import save_images

    files = save_images(client, job["images"], out, job["id"]) if out else []
    if as_json:
        print_json({**job, "files": [str(file) for file in files]})
    else:
        for file in files:
            click.echo(file)
    if job["status"] == "succeeded":
        _tell_unread(job["metrics"].get("unread_tokens"))
        return Ending.DONE
    error = job["error"]
    say(f"{job['id']} {job['status']}" + (f": {error['message']}" if error else ""))
    return Ending.JOB_FAILED


def _tell_unread(tokens: int | None) -> None:
    if tokens:
        say(f"the end of the prompt was not read, {tokens} tokens: these weights read fewer")


def _asset(client: "Client", name: str) -> str:
    from deploy.batch_file import is_asset

    if is_asset(name):
        return name
    if Path(name).is_dir():
        raise click.BadParameter(f"{name!r} is a folder", param_hint="--reference")
    if not Path(name).is_file():
        raise click.BadParameter(f"there is no file {name!r}", param_hint="--reference")
    return str(client.upload(Path(name))["id"])
