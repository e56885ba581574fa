"""How gunicorn's worker speaks: events without a caller's words, plain text instead of HTML."""

import logging
import sys
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

UNREADABLE = "400 Bad Request"
REFUSALS = {
    LimitRequestLine: "414 URI Too Long",
    LimitRequestHeaders: "431 Request Header Fields Too Large",
}

log = logging.getLogger(__name__)


class Worker(ThreadWorker):  # type: ignore[misc]
    """Threads that answer; what cannot be read is the caller's fault, and is not repeated."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that the app never saw, or could not be asked to answer."""
        kind = type(exc).__name__  # its text may quote a header, and a header may be a key
        if isinstance(exc, ParseException):
            status = REFUSALS.get(type(exc), UNREADABLE)
            log.info("unreadable", extra={"error": kind, "status": int(status[:3])})
        else:
            status = "500 Internal Server Error"
            log.error("unexpected", extra={"error": kind}, exc_info=exc)
        text = status[4:] + "\n"
        head = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(text)}\r\n\r\n"
        )
        try:
            client.sendall((head + text).encode())
        except OSError:  # it has gone
            log.debug("gone", extra={"error": kind})


class Events(Logger):  # type: ignore[misc]
    """Let what gunicorn says go where the program's own events go, as lines of JSON."""

    def setup(self, cfg: Any) -> None:
        """Set it up as gunicorn does, less its own way of writing."""
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Tell an error, but for the one that only means that a caller fell silent."""
        if isinstance(sys.exc_info()[1], BlockingIOError):
            log.info("silent", extra={"error": "BlockingIOError"})
        else:
            super().exception(msg, *args, **kwargs)
