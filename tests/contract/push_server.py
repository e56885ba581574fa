"""A real HTTP server in a worker's place: it answers pushes as it is told, and remembers them."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared.messages import Envelope, decode_envelope

DROP = "drop the connection"
HANG = "never answer"

Reply = int | str | threading.Event  # a status, DROP, HANG, or an event to answer 204 after


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A push as it came in."""

    envelope: Envelope
    authorization: str | None
    content_type: str | None
    body: bytes


class PushServer:
    """Gives each push the next reply; the last one serves all that follow."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.pushes: queue.Queue[Push] = queue.Queue()
        self.closing = threading.Event()
        self.most_at_once = 0
        self.now_open = 0
        self._replies = list(replies)
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/push"

    def next_push(self) -> Push:
        return self.pushes.get(timeout=30)

    def serve(self) -> None:
        self._http.serve_forever(poll_interval=0.01)

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def reply(self) -> Reply:
        with self._lock:
            self.now_open += 1
            self.most_at_once = max(self.most_at_once, self.now_open)
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]

    def done(self) -> None:
        with self._lock:
            self.now_open -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply = server.reply()
                server.pushes.put(
                    Push(
                        envelope=decode_envelope(body),
                        authorization=self.headers["Authorization"],
                        content_type=self.headers["Content-Type"],
                        body=body,
                    )
                )
                try:
                    self._answer(reply)
                finally:
                    server.done()

            def _answer(self, reply: Reply) -> None:
                if reply == DROP:
                    self.close_connection = True
                    return
                if reply == HANG:
                    server.closing.wait()
                    return
                if isinstance(reply, threading.Event):
                    reply.wait(timeout=30)
                    reply = 204
                assert isinstance(reply, int)
                self.send_response(reply)
                if 300 <= reply < 400:
                    self.send_header("Location", server.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@contextmanager
def push_server(*replies: Reply) -> Iterator[PushServer]:
    """Serve pushes on a free port while the block runs."""
    server = PushServer(replies or [204])
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
