"""How often a request reads: by how many groups there are, never by how many scenes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient

from shared.embedded.database import Database
from tests.http.conftest import House
from tests.http.stories import expand_all, scenes_of, submit, submitted

SCENES = 150  # one group on every backend
KEYS = [f"p{n:03}" for n in range(SCENES)]
FEW = 30  # reads; one for each scene would be five times as many
SELECTED = {"scenes": KEYS * 60}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note every transaction that the embedded stores begin in the block."""
    begun = list[str]()
    real = Database._transaction

    def transaction(database: Database, begin: str) -> Any:
        begun.append(begin)
        return real(database, begin)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "_transaction", transaction)
        yield begun


def read_results(client: FlaskClient, batch: str) -> int:
    return client.get(f"{batch}/results.jsonl").status_code


def draw_a_sheet(client: FlaskClient, batch: str) -> int:
    return client.get(f"{batch}/contact-sheet.png").status_code


def list_scenes(client: FlaskClient, batch: str) -> int:
    return client.get(f"{batch}/scenes?limit=200").status_code


def select_by_name(client: FlaskClient, batch: str) -> int:
    wish = {"select": SELECTED, "dry_run": True}
    return client.post(f"{batch}/reprocess", json=wish).status_code


def name_references(client: FlaskClient, batch: str) -> int:
    scenes = [scene | {"references": [f"ast_{scene['key']}"]} for scene in scenes_of(*KEYS)]
    return int(submit(client, scenes=scenes).status_code)


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (read_results, 200),
        (draw_a_sheet, 200),
        (list_scenes, 200),
        (select_by_name, 202),
        (name_references, 422),
    ],
)
def test_a_batch_is_read_by_groups(
    house: House,
    client: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[..., int],
    status: int,
) -> None:
    batch = submitted(client, *KEYS)
    expand_all(house)
    with counted(monkeypatch) as begun:
        assert ask(client, batch) == status
    assert 0 < len(begun) <= FEW


def test_a_repeated_reprocess_finds_what_it_asked_for_by_groups(
    house: House, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(client, *KEYS)
    expand_all(house)
    client.post(f"{batch}/cancel")
    again = {"select": {"all": True}}
    assert client.post(f"{batch}/reprocess", json=again).status_code == 202
    running = {"select": {"status": ["running"]}}
    with counted(monkeypatch) as begun:
        answer = client.post(f"{batch}/reprocess", json=running, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json["selected"]) == (202, 0)
    assert 0 < len(begun) <= FEW
