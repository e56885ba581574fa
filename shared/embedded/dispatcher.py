"""The push half of the embedded queue: it does to workers what Pub/Sub does to them."""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from shared.embedded.delivery import QueuedMessage, QueueFile
from shared.embedded.endpoints import Endpoints
from shared.errors import StoreError
from shared.messages import encode_envelope

SUBSCRIPTION = "projects/local/subscriptions/illo-wake"
ACKNOWLEDGED = frozenset({102, 200, 201, 202, 204})  # as Pub/Sub counts them
MAX_DELIVERIES = 100  # the most that a Pub/Sub dead-letter policy allows

# Pub/Sub goes up to 60 s; here nothing is billed by the wake-up, and people watch.
FIRST_PAUSE = timedelta(milliseconds=100)
LONGEST_PAUSE = timedelta(seconds=10)

POLL = 0.025  # 25 ms to notice a message, for about one per cent of a core
PAUSE_AFTER_STORE_ERROR = 1.0
CONNECT_TIMEOUT = 5.0  # the worker is on this machine
SETTLING = timedelta(seconds=10)  # from the end of a push to its record in the queue, generously
GRACE = timedelta(seconds=5)

log = logging.getLogger(__name__)


class Signer(Protocol):
    """What signs pushes."""

    def token(self) -> str:
        """Return an identity token that is good now."""


class Dispatcher:
    """Pushes every message until it is acknowledged, at least once and in no order.

    One for each queue. Killed at any moment, it loses nothing: what was under way is pushed again.
    """

    def __init__(
        self,
        queue: QueueFile,
        endpoints: Sequence[str],
        signer: Signer,
        *,
        ack_deadline: timedelta,
        window: int,
        max_deliveries: int = MAX_DELIVERIES,
        grace: timedelta = GRACE,
    ) -> None:
        self._queue = queue
        self._endpoints = Endpoints(endpoints)
        self._signer = signer
        self._ack_deadline = ack_deadline
        self._window = window
        self._max_deliveries = max_deliveries
        self._grace = grace
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, total=ack_deadline.total_seconds())
        self._http = urllib3.PoolManager(maxsize=window, retries=False, timeout=timeout)

    def run(self, stop: threading.Event) -> None:
        """Push until `stop` is set, then wait for the pushes under way, but not past the grace."""
        recovered = False
        while not stop.is_set():
            try:
                if not recovered:
                    log.info("dispatcher_started", extra={"recovered": self._queue.recover()})
                    recovered = True
                started = self._push_next()
            except StoreError as error:
                log.warning("queue_unavailable", extra={"error": str(error)})
                stop.wait(PAUSE_AFTER_STORE_ERROR)
            else:
                if not started:
                    stop.wait(POLL)
        self._let_pushes_end()

    def _push_next(self) -> bool:
        """Start one push, if there is room, a message and somebody to push it to."""
        if self._endpoints.busy >= self._window or not self._queue.any_due():
            return False
        endpoint = self._endpoints.acquire()
        if endpoint is None:
            return False
        messages: list[QueuedMessage] = []
        try:
            messages = self._queue.take(1, within=self._ack_deadline + SETTLING)
        finally:
            if not messages:
                self._endpoints.release(endpoint, reached=None)
        for message in messages:
            # Daemons: a worker that never answers must not keep this process from ending.
            threading.Thread(
                target=self._deliver, args=(message, endpoint), name="push", daemon=True
            ).start()
        return bool(messages)

    def _deliver(self, message: QueuedMessage, endpoint: str) -> None:
        reached = None
        try:
            status = self._post(message, endpoint)
            reached = status is not None
            self._record(message, status)
        except StoreError as error:
            # The message is still taken; it comes back by itself.
            log.warning("queue_unavailable", extra={"error": str(error)})
        finally:
            self._endpoints.release(endpoint, reached=reached)

    def _post(self, message: QueuedMessage, endpoint: str) -> int | None:
        """Push once: the answer's status, 0 if none came in time, None if nobody was reached."""
        body = encode_envelope(
            message.body,
            message.attributes,
            message_id=str(message.id),
            published_at=message.published_at,
            subscription=SUBSCRIPTION,
            attempt=message.deliveries,
        )
        headers = {
            "Authorization": f"Bearer {self._signer.token()}",
            "Content-Type": "application/json",
            "Connection": "close",  # a kept one may be closed just as it is used, a needless NACK
        }
        try:
            response = self._http.request(
                "POST", endpoint, body=body, headers=headers, redirect=False, preload_content=False
            )
        except (NewConnectionError, ConnectTimeoutError):
            return None
        except HTTPError as error:
            log.info(
                "push_unanswered", extra={"message_id": message.id, "error": type(error).__name__}
            )
            return 0
        response.close()
        return response.status

    def _record(self, message: QueuedMessage, status: int | None) -> None:
        about = {"message_id": message.id, "delivery": message.deliveries, "status": status}
        if status is None:
            # Nobody was there to fail: a worker's start must not use up the dead-letter budget.
            self._queue.untake(message.id)
        elif status in ACKNOWLEDGED:
            self._queue.settle(message.id)
            log.debug("pushed", extra=about)
        elif message.deliveries >= self._max_deliveries:
            self._queue.bury(message.id)
            log.warning("dead_lettered", extra=about)
        else:
            self._queue.retry(message.id, after=pause_after(message.deliveries))
            log.info("push_refused", extra=about)

    def _let_pushes_end(self) -> None:
        give_up = time.monotonic() + self._grace.total_seconds()
        while self._endpoints.busy and time.monotonic() < give_up:
            time.sleep(POLL)


def pause_after(deliveries: int) -> timedelta:
    """Say how long a message waits after so many deliveries: doubling, up to ten seconds."""
    doublings = min(deliveries - 1, 20)  # far past the longest pause, far below an overflow
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << doublings))
