"""The push proxy's own HTTP: it takes pushes, and serves certificates to judge them by."""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

PUSH_PATH, CERTIFICATES_PATH = "/push", "/certificates"
MOST_BYTES = 65_536  # an envelope has some 500
# The emulator takes 202 for a refusal and 203 for consent, follows redirects, and repeats a push
# whose connection ends. These two it understands.
ACCEPTED, REFUSED = 204, 503
STOPS_WITHIN = 0.05  # seconds

log = logging.getLogger(__name__)


class Relay(Protocol):
    """What hands pushes on."""

    def deliver(self, envelope: bytes) -> bool:
        """Push to a worker; say whether it was acknowledged."""


@contextmanager
def serving(relay: Relay, certificates: Mapping[str, str], *, port: int = 0) -> Iterator[str]:
    """Serve on this machine alone while the block lasts; yield the base URL."""
    requests = _requests(relay, json.dumps(dict(certificates)).encode())
    server = _Server(("127.0.0.1", port), requests)
    thread = threading.Thread(target=server.serve_forever, args=(STOPS_WITHIN,), name="intake")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a push may be open for minutes; unanswered, it comes again

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("push_broken_off", exc_info=True)


def _requests(relay: Relay, certificates: bytes) -> type[BaseHTTPRequestHandler]:
    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60  # seconds that a connection may be idle

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                self.close_connection = True  # the body stays unread
                self._answer(400)
                return
            envelope = self.rfile.read(int(length))
            if self.path == PUSH_PATH:
                self._answer(ACCEPTED if relay.deliver(envelope) else REFUSED)
            else:
                self._answer(404)

        def do_GET(self) -> None:
            if self.path == CERTIFICATES_PATH:
                self._answer(200, certificates)
            else:
                self._answer(404)

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            if body:
                self.send_header("Content-Type", "application/json")
                self.send_header("Cache-Control", "max-age=3600")
            if status != ACCEPTED:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass  # what matters of a push is told as an event

    return Requests
