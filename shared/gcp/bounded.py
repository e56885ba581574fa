"""The SDK's transaction with a bound on every call; its own waits a minute for a server away."""

from contextlib import suppress
from typing import Any

from google.cloud import firestore

from shared.gcp.calls import FAULTS, ONCE, Bounds

ROLLBACK: Bounds = {"timeout": 2.0, "retry": ONCE}  # nobody gains by waiting for it


class BoundedTransaction(firestore.Transaction):
    """Locks what is read with it, if it was begun, and commits writes at once.

    No call is tried twice: whether a commit took place whose answer was lost, is found by reading.
    """

    def begin(self, bounds: Bounds) -> None:
        """Take locks on what is read from now on."""
        self._id = self._call("begin_transaction", {}, bounds).transaction

    def send(self, writes: firestore.WriteBatch, bounds: Bounds) -> None:
        """Write everything or nothing, and let go of the locks."""
        request: dict[str, Any] = {"writes": writes._write_pbs}
        if self._id is not None:
            request["transaction"] = self._id
        self._call("commit", request, bounds)
        self._clean_up()

    def undo(self) -> None:
        """Let go of the locks, if there are any and the server can be told; raises nothing."""
        if self._id is not None:
            with suppress(*FAULTS):
                self._call("rollback", {"transaction": self._id}, ROLLBACK)
        self._clean_up()

    def _call(self, name: str, request: dict[str, Any], bounds: Bounds) -> Any:
        return getattr(self._client._firestore_api, name)(
            request={"database": self._client._database_string, **request},
            metadata=self._client._rpc_metadata,
            **bounds,
        )
