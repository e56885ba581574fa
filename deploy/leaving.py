"""Tell a person how to come back to what goes on without them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.client import Client
from deploy.console import command_line, say
from shared.errors import IlloError


@contextmanager
def coming_back(client: Client, id: str, out: Path | None) -> Iterator[None]:
    """Say how to come back if what was submitted is not seen through, whatever the reason is."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\n{id} goes on without you. Come back with:\n  {_back(client, id, out)}")
        say(f"or end it with:\n  {command_line('cancel', id, url=client.url)}")
        raise
    except (IlloError, OSError):
        say(f"{id} is not lost. Come back with:\n  {_back(client, id, out)}")
        raise


def _back(client: Client, id: str, out: Path | None) -> str:
    where = ["-o", str(out)] if out else []
    return command_line("status", id, "--wait", *where, url=client.url)
