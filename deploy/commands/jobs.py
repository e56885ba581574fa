"""`illo status`, `illo jobs` and `illo cancel`: look at what was submitted, and end it."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.arguments import Id, out_option
from deploy.commands.batch import finish_batch, see_through
from deploy.commands.draw import finish_job, see_job_through, wait_for_job
from deploy.console import Ending, print_json, say, speaks_to_service

if TYPE_CHECKING:
    from deploy.client import Client

BATCH = "bat_"
STATUSES = ["queued", "running", "succeeded", "failed", "canceled"]
BAD_ENDS = frozenset({"failed", "canceled", "completed_with_failures"})


@click.command()
@click.argument("id", type=Id("job", "bat"))
@click.option("--wait", is_flag=True, help="Follow it to its end.")
@out_option(help="Save what it drew there.")
@speaks_to_service
def status(client: "Client", id: str, wait: bool, out: Path | None, as_json: bool) -> int:
    """Show the job or batch ID. Ends with 1 if it has failed or was canceled."""
    if wait and id.startswith(BATCH):
        return see_through(client, id, out, as_json=as_json)
    if wait and out:
        return see_job_through(client, id, out, as_json=as_json)
    kind = "batches" if id.startswith(BATCH) else "jobs"
    found = wait_for_job(client, id) if wait else client.get(f"/v1/{kind}/{id}").json()
    if out:
        finish = finish_batch if id.startswith(BATCH) else finish_job
        return finish(client, found, out, as_json=as_json)
    _tell(found, as_json=as_json)
    return Ending.JOB_FAILED if found["status"] in BAD_ENDS else Ending.DONE


@click.command()
@click.option("--status", type=click.Choice(STATUSES))
@click.option("--batch", type=Id("bat"), help="Only the jobs of this batch.")
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
    elif found:
        rows = list(_rows(found))
        print_table(rows, whole=("job", "batch", "status"), spare=("prompt", "created", "attempt"))
    else:
        say("no jobs")
    return Ending.DONE


@click.command()
@click.argument("id", type=Id("job", "bat"))
@speaks_to_service
def cancel(client: "Client", id: str, as_json: bool) -> int:
    """Cancel the job or batch ID; what has ended stays as it is."""
    kind = "batches" if id.startswith(BATCH) else "jobs"
    _tell(client.post(f"/v1/{kind}/{id}/cancel").json(), as_json=as_json)
    return Ending.DONE


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
    steps = "1 step" if drawn["steps"] == 1 else f"{drawn['steps']} steps"
    click.echo(f"  {drawn['width']}x{drawn['height']}, {steps}, seed {drawn['seed']}")
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


def _rows(found: list[Any]) -> Iterator[dict[str, object]]:
    batched = any(job["batch"] for job in found)
    for job in found:
        place = job["batch"] or {"id": None, "scene": None}
        prompt = job["input"]["prompt"].replace("\n", " ")
        yield {
            "job": job["id"],
            "status": job["status"],
            "attempt": job["attempt"],
            **({"batch": place["id"], "scene": place["scene"]} if batched else {}),
            "created": job["created_at"][:19],
            "prompt": prompt if len(prompt) <= 48 else prompt[:47] + "…",
        }
