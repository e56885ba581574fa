"""What this worker tells of itself, also before it is ready, and while nothing happens."""

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from shared.errors import StoreUnavailable
from shared.ports import WorkerStore
from shared.workers import WorkerRecord, WorkerState

log = logging.getLogger(__name__)

PROGRESS_EVERY = 2.0  # seconds between two reports of one stage; Firestore bears one a second
SAY_AGAIN = 15.0  # seconds; well below the time after which a silent worker counts as gone


class Presence:
    """Writes this worker's record at every change, and every few seconds without one."""

    def __init__(self, record: WorkerRecord, *, workers: WorkerStore) -> None:
        self._record, self._workers = record, workers
        self._lock = threading.Lock()
        self._told_at = 0.0

    @property
    def record(self) -> WorkerRecord:
        """What was told last."""
        return self._record

    def tell(self, **changes: Any) -> None:
        """Change fields of the record and write it; a store that is away is passed over."""
        with self._lock:
            self._record = replace(self._record, **changes)
            try:
                told = replace(self._record, at=self._workers.now())
                self._workers.save(told)
            except StoreUnavailable as error:
                log.warning("presence not told", extra={"reason": str(error)})

    def keep_telling(self, stop: threading.Event) -> None:
        """Write the record again and again until `stop`; run it in a thread of its own."""
        while not stop.wait(SAY_AGAIN):
            self.tell()

    def loading(self, stage: str, fraction: float) -> None:
        """Tell how far the start has come, 0 to 1: at every stage, and every other second."""
        now = time.monotonic()
        if stage == self._record.stage and now - self._told_at < PROGRESS_EVERY:
            return
        self._told_at = now
        log.info("starting", extra={"stage": stage, "fraction": round(fraction, 3)})
        self.tell(state=WorkerState.STARTING, stage=stage, fraction=fraction)
