"""`illo reprocess`: draw scenes of a batch again; earlier takes stay."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.arguments import Id, out_option
from deploy.commands.batch import see_through
from deploy.console import Ending, print_json, say, speaks_to_service
from deploy.scene_options import AS_DRAWN, scene_fields, scene_options

if TYPE_CHECKING:
    from deploy.client import Client

UNDONE = ["failed", "canceled"]


@click.command()
@click.argument("batch", type=Id("bat"))
@click.option("--failed", is_flag=True, help="Scenes that failed or were canceled.")
@click.option("--stale", is_flag=True, help="Scenes that changed since they were drawn.")
@click.option("--all", "everything", is_flag=True, help="Every scene.")
@click.option("--scene", "keys", multiple=True, metavar="KEY", help="This scene; repeatable.")
@scene_options(AS_DRAWN)
@click.option("--seed", type=click.Choice(["keep", "new", "increment"]), default="keep",
              show_default=True, help="What becomes of each scene's seed.")  # fmt: skip
@click.option("--force", is_flag=True, help="Also draw what did not change.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be drawn.")
@out_option(help="Where to save the batch's results.")
@click.option("--wait/--no-wait", default=True, help="Whether to follow it to its end.")
@speaks_to_service
def reprocess(
    client: "Client",
    batch: str,
    failed: bool,
    stale: bool,
    everything: bool,
    keys: tuple[str, ...],
    size: tuple[int, int] | None,
    seed: str,
    force: bool,
    dry_run: bool,
    out: Path | None,
    wait: bool,
    as_json: bool,
    **given: object,
) -> int:
    """Draw scenes of BATCH again: exactly one of --failed, --stale, --all or --scene says which.

    Every run adds a take; a scene that succeeded and did not change is skipped.
    In OUT the batch's pictures are brought up to date: new takes replace the
    files of older ones, which the service keeps.
    """
    body = {
        "select": selection(failed=failed, stale=stale, everything=everything, keys=keys),
        "overrides": scene_fields(size, **given),
        "seed": seed,
        "force": force,
        "dry_run": dry_run,
    }
    path = f"/v1/batches/{batch}/reprocess"
    answer = client.post(path, body).json()
    if not wait or dry_run or not answer["jobs"]:
        _tell(answer, as_json=as_json)
        return Ending.DONE
    say(_sentence(answer))
    return see_through(client, batch, out, as_json=as_json)


def selection(
    *, failed: bool, stale: bool, everything: bool, keys: tuple[str, ...]
) -> dict[str, Any]:
    """Say which scenes are meant; raises UsageError unless it was said in exactly one way."""
    ways: list[dict[str, Any]] = []
    ways += [{"status": UNDONE}] if failed else []
    ways += [{"stale": True}] if stale else []
    ways += [{"all": True}] if everything else []
    ways += [{"scenes": list(keys)}] if keys else []
    if len(ways) != 1:
        raise click.UsageError("say which scenes: --failed, --stale, --all or --scene KEY")
    return ways[0]


def _tell(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    click.echo(_sentence(answer))
    for skipped in answer["skipped"]:
        click.echo(f"  {skipped['key']}: {skipped['reason'].replace('_', ' ')}")


def _sentence(answer: dict[str, Any]) -> str:
    selected, skipped = answer["selected"], len(answer["skipped"])  # apart from each other
    scenes, verb = ("scene", "is") if selected == 1 else ("scenes", "are")
    verb = "would be" if answer["dry_run"] else verb
    return f"{selected} {scenes} {verb} drawn again, {skipped} skipped"
