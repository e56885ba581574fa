"""`illo status`, `illo jobs` and `illo cancel`: look at what was submitted, and end it."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.commands.batch import finish_batch, see_through
from deploy.commands.draw import finish_job
from deploy.console import Ending, print_json, speaks_to_service

if TYPE_CHECKING:
    from deploy.client import Client

BATCH = "bat_"
STATUSES = ["queued", "running", "succeeded", "failed", "canceled"]
BAD_ENDS = frozenset({"failed", "canceled", "completed_with_failures"})


@click.command()
@click.argument("id")
@click.option("--wait", is_flag=True, help="Follow it to its end.")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path),
              help="Save what it drew there.")  # fmt: skip
@speaks_to_service
def status(client: "Client", id: str, wait: bool, out: Path | None, as_json: bool) -> int:
    """Show the job or batch ID. Ends with 1 if it has failed or was canceled."""
    if id.startswith(BATCH):
        if wait:
            return see_through(client, id, out, as_json=as_json)
        found = client.get(f"/v1/batches/{id}").json()
    else:
        found = _wait_for_job(client, id) if wait else client.get(f"/v1/jobs/{id}").json()
    if out:
        finish = finish_batch if id.startswith(BATCH) else finish_job
        return finish(client, found, out, as_json=as_json)
    _tell(found, as_json=as_json)
    return Ending.JOB_FAILED if found["status"] in BAD_ENDS else Ending.DONE


@click.command()
@click.option("--status", type=click.Choice(STATUSES))
@click.option("--batch", help="Only the jobs of this batch.")
@click.option("--metadata", metavar="KEY=VALUE", help="Only jobs that carry this pair.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@speaks_to_service
def jobs(
    client: "Client",
    status: str | None,
    batch: str | None,
    metadata: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """List jobs, newest first."""
    from deploy.tables import print_table

    query: dict[str, str | int | None] = {"status": status, "batch": batch}
    if metadata is not None:
        key, equals, value = metadata.partition("=")
        if not equals:
            raise click.BadParameter("must be KEY=VALUE", param_hint="--metadata")
        query[f"metadata[{key}]"] = value
    query["limit"] = min(limit, 200)
    found = list(islice(client.pages("/v1/jobs", query), limit))
    if as_json:
        print_json({"object": "list", "data": found})
    else:
        headings = ("job", "status", "attempt", "scene", "created", "prompt")
        print_table(headings, [_row(job) for job in found])
    return Ending.DONE


@click.command()
@click.argument("id")
@speaks_to_service
def cancel(client: "Client", id: str, as_json: bool) -> int:
    """Cancel the job or batch ID; what has ended stays as it is."""
    kind = "batches" if id.startswith(BATCH) else "jobs"
    _tell(client.post(f"/v1/{kind}/{id}/cancel").json(), as_json=as_json)
    return Ending.DONE


def _wait_for_job(client: "Client", id: str) -> Any:
    from deploy.following import follow_job
    from deploy.progress import Display

    with Display() as display:
        return follow_job(client, id, display.show)


def _tell(found: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found["object"] == "batch":
        _tell_batch(found)
    else:
        _tell_job(found)


def _tell_job(job: Any) -> None:
    from deploy.following import job_line

    what, detail, _ = job_line(job)
    click.echo(f"{job['id']}  {' '.join(filter(None, (what, detail)))}")
    drawn = job["input"]
    click.echo(
        f"  {drawn['width']}x{drawn['height']}, {drawn['steps']} steps, seed {drawn['seed']}"
    )
    for moment in job["timeline"]:
        click.echo(f"  {moment['at']}  {moment['event']}  (attempt {moment['attempt']})")
    if job["cancel_requested_at"] and job["status"] == "running":
        click.echo("  to be canceled at its next step")
    if job["error"]:
        click.echo(f"  {job['error']['code']}: {job['error']['message']}")


def _tell_batch(batch: Any) -> None:
    click.echo(f"{batch['id']}  {batch['status'].replace('_', ' ')}  {batch['title']}".rstrip())
    counts = ", ".join(f"{count} {status}" for status, count in batch["counts"].items() if count)
    click.echo(f"  {counts}; {batch['stale']} stale")


def _row(job: Any) -> tuple[object, ...]:
    scene = job["batch"]["scene"] if job["batch"] else None
    prompt = job["input"]["prompt"].replace("\n", " ")
    short = prompt if len(prompt) <= 48 else prompt[:47] + "…"
    return job["id"], job["status"], job["attempt"], scene, job["created_at"][:19], short
