"""Hand pushes on to workers as Pub/Sub would: signed, within a deadline, to a free one."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from deploy.push_fates import Fate
from shared.embedded.dispatcher import ACKNOWLEDGED, CONNECT_TIMEOUT, Signer
from shared.embedded.endpoints import Endpoints

log = logging.getLogger(__name__)


class PushRelay:
    """Pushes to the workers at these addresses, the least busy first. Safe for threads."""

    def __init__(
        self,
        endpoints: Sequence[str],
        signer: Signer,
        *,
        ack_deadline: timedelta,
        fate: Callable[[], Fate] = Fate,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoints = Endpoints(endpoints)
        self._signer = signer
        self._fate = fate
        self._sleep = sleep
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, total=ack_deadline.total_seconds())
        self._http = urllib3.PoolManager(retries=False, timeout=timeout)

    def deliver(self, envelope: bytes) -> bool:
        """Push once, as its fate will have it; say whether it was acknowledged."""
        fate = self._fate()
        if fate.lost:
            log.info("push_lost")
            return True
        if fate.delay:
            log.info("push_delayed", extra={"seconds": round(fate.delay, 3)})
            self._sleep(fate.delay)
        if fate.doubled:
            log.info("push_doubled")
            threading.Thread(target=self._push, args=(envelope,), name="twin", daemon=True).start()
        return self._push(envelope)

    def _push(self, envelope: bytes) -> bool:
        endpoint = self._endpoints.acquire()
        if endpoint is None:
            return False
        status = None
        try:
            status = self._post(envelope, endpoint)
        finally:
            self._endpoints.release(endpoint, reached=status is not None)
        log.debug("pushed", extra={"status": status})
        return status in ACKNOWLEDGED

    def _post(self, envelope: bytes, endpoint: str) -> int | None:
        """Push to one worker: its status, 0 if none came in time, None if it was not reached."""
        headers = {
            "Authorization": f"Bearer {self._signer.token()}",
            "Content-Type": "application/json",
            "Connection": "close",  # a kept one may be closed just as it is used
        }
        try:
            response = self._http.request(
                "POST",
                endpoint,
                body=envelope,
                headers=headers,
                redirect=False,
                preload_content=False,
            )
        except (NewConnectionError, ConnectTimeoutError):
            return None
        except HTTPError as error:
            log.info("push_unanswered", extra={"error": type(error).__name__})
            return 0
        response.close()
        return response.status
