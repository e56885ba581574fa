"""`illo keys`: make, list and revoke API keys, in a file that holds only their hashes."""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.console import Ending, print_json, say, speaks_json

if TYPE_CHECKING:
    from shared.keys import Keys, StoredKey

SCOPES = ["read", "write", "admin"]
LONGEST_LIFE = 3650  # days


def _no_key(ctx: click.Context, param: click.Parameter, place: str | None) -> str | None:
    from shared.keys import is_key

    if place is not None and is_key(place):
        raise click.BadParameter("this is a key itself; a file of hashes is wanted")
    return place


file_option = click.option(
    "--file",
    "place",
    callback=_no_key,
    envvar="ILLO_KEYS",
    show_envvar=True,
    help="The file of hashes; the service reads it as ILLO_KEYS.",
)


@click.group()
def keys() -> None:
    """Make, list or revoke API keys."""


@keys.command()
@click.option("--tenant", required=True, help="Whose it is: a-z, 0-9 and hyphens.")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True,
              help="What it may do, once for each scope.  [read, write]")  # fmt: skip
@click.option("--expires", type=click.IntRange(1, LONGEST_LIFE), metavar="DAYS",
              help="It ends by itself.")  # fmt: skip
@file_option
@speaks_json
def new(
    tenant: str, scopes: tuple[str, ...], expires: int | None, place: str | None, as_json: bool
) -> int:
    """Make a key and print it, this once; only its hash is written to the file.

    Without a file the entry to paste into one is told. A tenant has two active keys at most.
    """
    from shared.keys import Scope, add_key, entry_of, is_tenant, new_key

    if not is_tenant(tenant):
        wanted = "1 to 63 of a-z, 0-9 and hyphens, no hyphen first"
        raise click.BadParameter(
            f"{tenant!r} is no name of a tenant: {wanted}", param_hint="--tenant"
        )
    now = _now()
    key, stored = new_key(
        tenant,
        [Scope(scope) for scope in dict.fromkeys(scopes or ("read", "write"))],
        now,
        expires_at=now + timedelta(days=expires) if expires else None,
        random=secrets.token_bytes,
    )
    written = _change(place, lambda known: add_key(known, stored, now), may_be_new=True)
    if as_json:
        print_json(
            {"key": key, "file": str(written) if written else None, "entry": entry_of(stored)}
        )
    else:
        click.echo(key)
        say(f"its hash is in {written}" if written else _to_paste(stored))
        say("the key is shown this once: keep it safe, and send it as ILLO_KEY")
    return Ending.DONE


@keys.command("list")
@file_option
@speaks_json
def list_keys(place: str | None, as_json: bool) -> int:
    """List the keys in the file, without their hashes."""
    found = list(_read(_required(place)).values())
    if as_json:
        print_json({"keys": [_shown(key) for key in found]})
    elif found:
        from deploy.tables import print_table

        rows = [{**_shown(key), "scopes": " ".join(key.scopes)} for key in found]
        print_table(rows, whole=("id", "tenant", "state"), spare=("created_at",))
    else:
        say("no keys")
    return Ending.DONE


@keys.command()
@click.argument("id")
@file_option
@speaks_json
def revoke(id: str, place: str | None, as_json: bool) -> int:
    """End the key ID for good; a running service knows within a second."""
    from shared.keys import revoke_key

    changed: dict[str, StoredKey] = {}

    def change(known: "Keys") -> "Keys":
        changed.update(revoke_key(known, id, _now()))
        return changed

    written = _change(_required(place), change, may_be_new=False)
    if as_json:
        print_json(_shown(changed[id]))
    else:
        say(f"{id} is revoked in {written}" if written else _to_paste(changed[id]))
    return Ending.DONE


def _change(
    place: str | None, change: "Callable[[Keys], Keys]", *, may_be_new: bool
) -> Path | None:
    """Change the keys in a file, and name it; None if there is none, or they are in ILLO_KEYS."""
    from shared.keys import write_keys

    if place is None or place.startswith("{"):
        change(_read(place) if place else {})
        return None
    file = Path(place).resolve()  # a link stays one
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent}", param_hint="--file")
    with _alone(file):
        known = {} if may_be_new and not file.exists() else _read(place)
        _replace(file, write_keys(change(known).values()))
    return file


def _read(place: str) -> "Keys":
    from api.key_file import load_keys
    from shared.clock import SystemClock

    return load_keys(place, SystemClock())


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep others from changing the file meanwhile: a lost change could be a revocation."""
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(file: Path, text: str) -> None:
    """Write the file at one stroke, for its owner's eyes only."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 600
    written = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)


def _required(place: str | None) -> str:
    if place is None:
        raise click.UsageError("say which file with --file or ILLO_KEYS")
    return place


def _shown(key: "StoredKey") -> dict[str, Any]:
    from shared.keys import entry_of

    kept = {name: value for name, value in entry_of(key).items() if name != "sha256"}
    return {"id": kept.pop("id"), "tenant": kept.pop("tenant"), "state": key.state(_now()), **kept}


def _to_paste(key: "StoredKey") -> str:
    from shared.keys import entry_of

    entry = json.dumps(entry_of(key), indent=1)
    return f'nothing was written; this belongs among the "keys" of ILLO_KEYS:\n{entry}'


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
