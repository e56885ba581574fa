"""`illo queue`: show, pause, resume or drain the queue."""

import time
from typing import TYPE_CHECKING, Any

import click

from deploy.console import Ending, command_line, print_json, say, speaks_to_service

if TYPE_CHECKING:
    from deploy.client import Client

LOOK_EVERY = 0.5  # seconds


@click.command()
@click.argument("wish", type=click.Choice(["pause", "resume", "drain"]), required=False)
@click.option("--reason", default="", help="Why it is paused; waiting jobs say so.")
@speaks_to_service
def queue(client: "Client", wish: str | None, reason: str, as_json: bool) -> int:
    """Show the queue, or pause it, resume it, or drain it: pause, then wait for what is drawn."""
    if reason and wish not in ("pause", "drain"):
        raise click.UsageError("--reason goes with `pause` or `drain`")
    if wish == "resume":
        answer = client.post("/v1/queue/resume")
    elif wish is not None:
        why = reason or ("draining" if wish == "drain" else "")
        answer = client.post("/v1/queue/pause", {"reason": why})
    if wish == "drain":
        _wait_until_idle(client)
        again = command_line("queue", "resume", url=client.url)
        say(f"nothing is being drawn; `{again}` goes on")
    if wish in (None, "drain"):
        answer = client.get("/v1/queue")
    overview = answer.json()
    if as_json:
        print_json(overview)
    else:
        _tell(overview)
    return Ending.DONE


def _wait_until_idle(client: "Client") -> None:
    from deploy.progress import Display

    most = 0
    with Display() as display:
        while left := _count(client.get("/v1/queue").json(), "running"):
            most = max(most, left)
            drawn = "1 job is" if left == 1 else f"{left} jobs are"
            display.show(f"{drawn} still being drawn", "", 1 - left / most)
            time.sleep(LOOK_EVERY)


def _tell(overview: Any) -> None:
    click.echo("paused" if overview["paused"] else "open")
    if overview["reason"]:
        click.echo(f"  {overview['reason']}")
    if "counts" in overview:  # who pauses may not be allowed to read
        click.echo(f"  {_count(overview, 'queued')} queued, {_count(overview, 'running')} running")


def _count(overview: Any, status: str) -> int:
    return sum(overview["counts"].get(status, {}).values())
