"""A connection to one Firestore database: documents, and the queries that are declared."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from google.auth.exceptions import DefaultCredentialsError
from google.cloud import firestore
from google.cloud.firestore_v1.aggregation import AggregationQuery

from shared.batches import groups
from shared.errors import StoreError
from shared.gcp.bounded import BoundedTransaction
from shared.gcp.calls import PATIENCE, Bounds, patiently
from shared.gcp.shapes import Ask
from shared.gcp.transactions import Transaction, instant_of, transact

CLOCK = ("control", "queue")  # read to learn the time; it need not be there
_PLAIN = re.compile(r"(?!__)[A-Za-z0-9_-]{1,200}")

Fields = Mapping[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """How many documents a query finds, the sums of their fields, and as of when."""

    count: int
    of: Mapping[str, float]
    at: datetime


class Firestore:
    """A connection, safe for threads; every instant it tells is the database's own."""

    def __init__(
        self, project: str, *, database: str = "(default)", patience: float = PATIENCE
    ) -> None:
        try:
            self.client = firestore.Client(project=project, database=database)
        except DefaultCredentialsError as error:
            raise StoreError(
                f"Firestore: no Google credentials were found ({error}); run "
                "`gcloud auth application-default login`, or give the service an account"
            ) from None
        self.patience = patience

    def now(self) -> datetime:
        """Tell the database's time."""
        return patiently(self.patience, self.tell_time)

    def get(self, collection: str, id: str) -> Fields | None:
        """Read a document."""
        return self.get_all(collection, [id]).get(id)

    def get_all(self, collection: str, ids: Sequence[str]) -> dict[str, Fields]:
        """Read the documents that are there, by id, 200 at a time."""
        found = dict[str, Fields]()
        for group in groups(ids):
            references = [self.reference(collection, id) for id in group]
            snapshots = patiently(self.patience, partial(self.read, references))
            pairs = zip(group, snapshots, strict=True)
            found |= {id: one.to_dict() for id, one in pairs if one.exists}
        return found

    def run(self, ask: Ask) -> list[Fields]:
        """Read what a query finds."""
        found = patiently(self.patience, lambda bounds: self.find(ask, bounds))
        return [one.to_dict() for one in found]

    def sums(self, ask: Ask, *, at: datetime | None = None) -> Sums:
        """Count what a query finds, or found at an instant, and sum up what its shape names."""
        return patiently(self.patience, lambda bounds: self.add_up(ask, bounds, at=at))

    def write(self, collection: str, id: str, fields: Fields) -> None:
        """Write a document, whatever was there."""
        reference = self.reference(collection, id)
        patiently(self.patience, lambda bounds: reference.set(dict(fields), **bounds))

    def delete(self, collection: str, id: str) -> None:
        """Delete a document; nothing happens if there is none."""
        reference = self.reference(collection, id)
        patiently(self.patience, lambda bounds: reference.delete(**bounds))

    def transact(self, body: Callable[[Transaction], Result], *, locking: bool = False) -> Result:
        """Run a body in a transaction, again if others interfered, and return what it returns.

        What the body raises comes through and nothing is written. See Transaction for what it may
        do. Raises DocumentExists, or StoreUnavailable when nothing was committed in time.
        """
        return transact(self, body, locking=locking)

    # --- single calls, for the transactions: they raise what the SDK does --------------------

    def reference(self, collection: str, id: str) -> firestore.DocumentReference:
        """Name a document; an id may be anything, also what Firestore cannot have as a name."""
        digest = hashlib.sha256(id.encode()).hexdigest()
        name = id if _PLAIN.fullmatch(id) else f"sha256:{digest}"
        return self.client.collection(collection).document(name)

    def tell_time(self, bounds: Bounds) -> datetime:
        """Tell the database's time."""
        (snapshot,) = self.read([self.reference(*CLOCK)], bounds)
        return instant_of(snapshot)

    def read(
        self,
        references: Sequence[firestore.DocumentReference],
        bounds: Bounds,
        *,
        locks: BoundedTransaction | None = None,
    ) -> list[Any]:
        """Read the snapshots of documents, there or not, in the order of their names."""
        if not references:
            return []
        found = self.client.get_all(list(references), transaction=locks, **bounds)
        by_name = {one.reference: one for one in found}
        return [by_name[reference] for reference in references]

    def find(
        self, ask: Ask, bounds: Bounds, *, locks: BoundedTransaction | None = None
    ) -> list[Any]:
        """Read the snapshots that a query finds."""
        if ask.limit == 0:
            return []
        return list(self._query(ask).get(transaction=locks, **bounds))

    def add_up(
        self,
        ask: Ask,
        bounds: Bounds,
        *,
        at: datetime | None = None,
    ) -> Sums:
        """Count what a query finds and sum up the fields that its shape names."""
        aggregation: Any = AggregationQuery(self._query(ask)).count(alias="documents")
        for field in ask.shape.sums:
            aggregation = aggregation.sum(field, alias=field)
        (answered,) = aggregation.get(read_time=at, **bounds)
        values = {one.alias: one.value for one in answered}
        of = {field: float(values[field]) for field in ask.shape.sums}
        return Sums(count=int(values["documents"]), of=of, at=answered[0].read_time)

    def _query(self, ask: Ask) -> Any:
        shape = ask.shape
        query: Any = self.client.collection(shape.collection)
        conditions = [
            *((field, "==") for field in shape.equal),
            *((field, "in") for field in shape.among),
            *((field, "array_contains") for field in shape.member),
            *shape.compared,
        ]
        for field, operator in conditions:
            query = query.where(filter=firestore.FieldFilter(field, operator, ask.values[field]))
        for name in shape.order:
            way = firestore.Query.DESCENDING if name[0] == "-" else firestore.Query.ASCENDING
            query = query.order_by(name.removeprefix("-"), direction=way)
        if ask.after is not None:
            query = query.start_after(ask.place(ask.after))
        if ask.before is not None:
            query = query.end_before(ask.place(ask.before))
        if ask.select is not None:
            query = query.select(ask.select)
        return query if ask.limit is None else query.limit(ask.limit)
