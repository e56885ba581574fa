"""How it is found out whether a commit took place whose answer was lost: by its nonce."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.cloud import firestore

# Nonces kept in a document. A commit's answer is waited for ten seconds, and others may write
# meanwhile: once a second, as Firestore recommends, or a little faster.
REMEMBERED_WRITES = 16

Reference = firestore.DocumentReference
Snapshot = Any  # firestore.DocumentSnapshot, whose parameters the SDK adds in newer versions


class Landed(Exception):
    """No error, a way out: a try whose answer was lost had been committed after all."""

    def __init__(self, result: Any) -> None:
        super().__init__("committed")
        self.result = result


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A try whose commit was sent: what it wrote last, and what its body returned."""

    nonce: str
    written: Reference
    result: Any


def signed(before: Snapshot | None, nonce: str) -> list[str]:
    """List the last writers of a document, this one included."""
    return [*_writers_of(before), nonce][-REMEMBERED_WRITES:]


def refuse_landed(lost: Sequence[Sent], snapshots: Sequence[Snapshot]) -> None:
    """Raise Landed if one of the lost tries wrote one of these documents."""
    for snapshot in snapshots if lost else ():
        writers = _writers_of(snapshot)
        for one in lost:
            if one.nonce in writers:
                raise Landed(one.result)


def _writers_of(snapshot: Snapshot | None) -> list[str]:
    writers: list[str] = ((snapshot and snapshot.to_dict()) or {}).get("writes", [])
    return writers
