"""`illo indexes`: what Firestore must index, and what it must not."""

import json

import click

from deploy.console import Ending


@click.command()
@click.option("--database", default="(default)", show_default=True, help="For gcloud: which one.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "gcloud"]),
    default="json",
    show_default=True,
    help="A file for Firebase, or commands to run.",
)
def indexes(form: str, database: str) -> int:
    """List the indexes that Firestore needs, as firestore.indexes.json.

    Without them its queries are refused, and with Firestore's own choice of them each heartbeat
    would cost a multiple. Apply them before the first start, and again after an update: with
    `illo indexes > firestore.indexes.json` and `firebase deploy --only firestore:indexes`, or run
    the lines that `illo indexes --format gcloud` prints. Terraform reads the same file: `illo
    indexes > deploy/terraform/indexes.json`. Queries are answered when the indexes are built.
    """
    from shared.gcp.indexes import commands, document

    if form == "json":
        click.echo(json.dumps(document(), indent=2))
    else:
        for command in commands(database):
            click.echo(command)
    return Ending.DONE
