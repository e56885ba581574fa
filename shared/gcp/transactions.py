"""Transactions on Firestore whose outcome is always known.

What a body reads and writes is compared at the commit: a document that changed since it was read
refuses the whole commit, and the body runs again. That needs no locks, one call less than the SDK's
transactions, and under contention somebody always wins. Only who asks queries takes locks.

An answer that is lost leaves open whether the commit took place. So each written document carries
the nonces of its last writes: who finds that of a lost try there knows that it was committed. One
that is still under way can do no harm: what it compares with has changed by then, or it is found.
"""

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from google.api_core import exceptions

from shared.errors import StoreError, StoreUnavailable
from shared.gcp.bounded import BoundedTransaction
from shared.gcp.calls import FAULTS, PASSING, Bounds, Patience, store_error
from shared.gcp.outcomes import Landed, Reference, Sent, Snapshot, refuse_landed, signed
from shared.gcp.shapes import Ask

if TYPE_CHECKING:
    from shared.gcp.firestore import Fields, Firestore, Sums

# What a commit is refused with when something changed since it was read. Elsewhere all but the
# first mean a database or an index that is missing.
CHANGED = (
    exceptions.Aborted,
    exceptions.AlreadyExists,
    exceptions.FailedPrecondition,
    exceptions.NotFound,
)

Result = TypeVar("Result")


class DocumentExists(StoreError):
    """A document was to be created whose id is taken; nothing was written."""


class Transaction:
    """One try. A body may create documents, and write or delete those that it has read, each once.

    It may run more than once, and reads what was there before its own writes. Only a locking one
    may ask queries: what they find stays so. A commit that only deletes is simply made again when
    its answer was lost, so a body must not draw conclusions from what is no longer there.
    """

    def __init__(
        self, store: "Firestore", lost: Sequence[Sent], patience: Patience, *, locking: bool
    ) -> None:
        self.sent: Sent | None = None
        self.committing = False
        self.created: list[Reference] = []
        self._store, self._lost, self._patience, self._locking = store, lost, patience, locking
        self._nonce = secrets.token_hex(8)
        self._inner = BoundedTransaction(store.client)
        self._writes = store.client.batch()
        self._written: list[Reference] = []
        self._now: datetime | None = None
        self._seen: dict[Reference, Snapshot] = {}

    @property
    def now(self) -> datetime:
        """The database's time as of what was read last."""
        if self._now is None:
            self._now = self._store.tell_time(self._patience.bounds)
        return self._now

    def get(self, collection: str, id: str) -> "Fields | None":
        """Read a document."""
        return self.get_all(collection, [id]).get(id)

    def get_all(self, collection: str, ids: Sequence[str]) -> "dict[str, Fields]":
        """Read the documents that are there, by id."""
        references = [self._store.reference(collection, id) for id in ids]
        locks = self._inner if self._locking else None
        snapshots = self._store.read(references, self._patience.bounds, locks=locks)
        self._see(snapshots)
        return {id: one.to_dict() for id, one in zip(ids, snapshots, strict=True) if one.exists}

    def run(self, ask: Ask) -> "list[Fields]":
        """Read what a query finds."""
        snapshots = self._store.find(ask, self._patience.bounds, locks=self._needed_locks())
        self._see(snapshots)
        return [snapshot.to_dict() for snapshot in snapshots]

    def glance(self, ask: Ask) -> "Sums":
        """Count and sum up as things stand: that may change before this transaction ends."""
        return self._store.add_up(ask, self._patience.bounds)

    def create(self, collection: str, id: str, fields: "Fields") -> None:
        """Write a document that must not be there."""
        reference = self._store.reference(collection, id)
        self.created.append(reference)
        self._create(reference, fields)

    def write(self, collection: str, id: str, fields: "Fields") -> None:
        """Write these fields of a document that was read, there or not."""
        reference = self._store.reference(collection, id)
        before = self._seen[reference]
        if not before.exists:
            self._create(reference, fields)
            return
        nonces = signed(before, self._nonce)
        unchanged = self._store.client.write_option(last_update_time=before.update_time)
        self._writes.update(reference, {**fields, "writes": nonces}, option=unchanged)
        self._written.append(reference)

    def delete(self, collection: str, id: str) -> None:
        """Delete a document that was read and is there."""
        reference = self._store.reference(collection, id)
        seen = self._seen[reference]
        unchanged = self._store.client.write_option(last_update_time=seen.update_time)
        self._writes.delete(reference, option=unchanged)

    def carry_out(self, body: "Callable[[Transaction], Result]") -> Result:
        """Run the body and commit what it wrote; let go of everything if anything fails."""
        try:
            if self._locking:
                self._inner.begin(self._patience.bounds)
            result = body(self)
            if len(self._writes):
                self._commit(result)
            return result
        finally:
            self._inner.undo()

    def _commit(self, result: Any) -> None:
        if self._written:
            # The last one: the first may be one that all submissions write, and soon forget.
            self.sent = Sent(nonce=self._nonce, written=self._written[-1], result=result)
        self.committing = True
        self._inner.send(self._writes, self._patience.bounds)

    def _create(self, reference: Reference, fields: "Fields") -> None:
        self._writes.create(reference, {**fields, "writes": signed(None, self._nonce)})
        self._written.append(reference)

    def _needed_locks(self) -> BoundedTransaction:
        if not self._locking:
            raise ValueError("only a locking transaction may ask queries")
        return self._inner

    def _see(self, snapshots: Sequence[Snapshot]) -> None:
        # A lost try may be committed at any moment, also after it was last looked for.
        refuse_landed(self._lost, snapshots)
        for snapshot in snapshots:
            self._now = instant_of(snapshot)
            self._seen[snapshot.reference] = snapshot


def transact(store: "Firestore", body: Callable[[Transaction], Result], *, locking: bool) -> Result:
    """See Firestore.transact."""
    lost: list[Sent] = []
    taken: Sequence[Reference] = ()
    fault: Exception | None = None
    patience = Patience(store.patience)
    while True:
        attempt = Transaction(store, lost, patience, locking=locking)
        last = fault is not None and patience.over
        try:
            _look_back(store, lost, taken, patience.bounds)
            if fault and last:
                raise _told(fault) from None
            return attempt.carry_out(body)
        except Landed as landed:
            return landed.result  # type: ignore[no-any-return]
        except FAULTS as met:
            if not _may_pass(met, attempt):
                raise store_error(met) from None
            if last:
                raise _told(met) from None
            fault = met
        if isinstance(fault, CHANGED):
            taken = attempt.created
        elif attempt.sent:
            lost.append(attempt.sent)
        patience.rest()


def instant_of(snapshot: Snapshot) -> datetime:
    """Say when a snapshot was read, as an instant like all others: the SDK's is of its own kind."""
    read: datetime = snapshot.read_time
    return datetime.combine(read.date(), read.timetz())


def _may_pass(fault: Exception, attempt: Transaction) -> bool:
    """Whether another try may help."""
    changed = isinstance(fault, CHANGED) and attempt.committing
    return changed or isinstance(fault, (exceptions.Aborted, *PASSING))


def _told(fault: Exception) -> StoreError:
    """Say what kept this transaction from its end, though it might have passed."""
    if isinstance(fault, CHANGED):
        return StoreUnavailable("Firestore: too many write the same at once; try again")
    return store_error(fault)


def _look_back(
    store: "Firestore", lost: Sequence[Sent], taken: Sequence[Reference], bounds: Bounds
) -> None:
    """Raise Landed if a lost try was committed; else DocumentExists if another took an id."""
    refuse_landed(lost, store.read(list({one.written for one in lost}), bounds))
    for snapshot in store.read(taken, bounds):
        if snapshot.exists:
            raise DocumentExists(f"{snapshot.reference.path} is there already")
