"""Cloud Scheduler's part: call for the sweep, again and again, with an identity token."""

import logging
import threading

import urllib3
from urllib3.exceptions import HTTPError

from shared.embedded.dispatcher import Signer

TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)

log = logging.getLogger(__name__)


def call_for_sweeps(url: str, signer: Signer, *, every: float, stop: threading.Event) -> None:
    """POST to this URL every so many seconds until told to stop; a failure is told, and no end."""
    http = urllib3.PoolManager(retries=False, timeout=TIMEOUT)
    while not stop.wait(every):
        headers = {"Authorization": f"Bearer {signer.token()}"}
        try:
            status = http.request("POST", url, headers=headers, redirect=False).status
        except HTTPError as error:
            log.info("sweep_unanswered", extra={"error": type(error).__name__})
            continue
        if not 200 <= status < 300:
            log.warning("sweep_refused", extra={"status": status})
