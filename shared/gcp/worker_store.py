"""What workers tell and the operator's switch, in Firestore."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from shared.documents import from_json, to_json
from shared.gcp import shapes
from shared.gcp.firestore import CLOCK as CONTROL
from shared.gcp.firestore import Fields, Firestore
from shared.gcp.shapes import WORKERS
from shared.gcp.transactions import Transaction
from shared.workers import QueueControl, WorkerRecord

KEPT = 50
MOST_FORGOTTEN = 100  # at once

ControlChange = Callable[[QueueControl, datetime], QueueControl]


class FirestoreWorkerStore:
    """See WorkerStore."""

    def __init__(self, firestore: Firestore) -> None:
        self._firestore = firestore
        self._heard: set[str] = set()

    def save(self, record: WorkerRecord) -> None:
        """See WorkerStore.save: a word of a worker that was heard before is one call."""
        self._firestore.write(WORKERS, record.id, _fields_of(record))
        if record.id not in self._heard:
            self._forget_others()
            self._heard.add(record.id)

    def records(self) -> list[WorkerRecord]:
        """See WorkerStore.records."""
        # By the last word, not the start: fifty failed starts must not hide a steady worker.
        ask = shapes.WORKERS_BY_LAST_WORD.ask(limit=KEPT)
        records = [
            from_json(WorkerRecord, fields["document"]) for fields in self._firestore.run(ask)
        ]
        return sorted(
            sorted(records, key=lambda record: record.id),
            key=lambda record: record.started_at,
            reverse=True,
        )

    def control(self) -> QueueControl:
        """See WorkerStore.control."""
        return _control_of(self._firestore.get(*CONTROL))

    def update_control(self, change: ControlChange) -> QueueControl:
        """See WorkerStore.update_control."""
        return self._firestore.transact(partial(_turn, change=change))

    def now(self) -> datetime:
        """See WorkerStore.now."""
        return self._firestore.now()

    def _forget_others(self) -> None:
        ask = shapes.WORKERS_BY_LAST_WORD.ask(limit=KEPT + MOST_FORGOTTEN, select=("id", "at"))
        others = self._firestore.run(ask)[KEPT:]
        if others:
            self._firestore.transact(partial(_forget, silent=others))


def _forget(transaction: Transaction, *, silent: Sequence[Fields]) -> None:
    """Delete the records of workers that have said nothing since they were listed."""
    there = transaction.get_all(WORKERS, [fields["id"] for fields in silent])
    for fields in silent:
        if fields["id"] in there and there[fields["id"]]["at"] == fields["at"]:
            transaction.delete(WORKERS, fields["id"])


def _turn(transaction: Transaction, *, change: ControlChange) -> QueueControl:
    before = _control_of(transaction.get(*CONTROL))
    after = change(before, transaction.now)
    if after is not before:
        transaction.write(*CONTROL, {"document": to_json(after)})
    return after


def _control_of(fields: Fields | None) -> QueueControl:
    return QueueControl() if fields is None else from_json(QueueControl, fields["document"])


def _fields_of(record: WorkerRecord) -> Fields:
    return {"id": record.id, "document": to_json(record), "at": record.at}
