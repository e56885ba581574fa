"""A bucket of one object that gives ranges as slowly and as wrongly as it is told.

    with ranged_server(octets, faults=(Fault(RESET, at=5_000_000),)) as server:
        CloudObject(BUCKET, OBJECT, token=lambda: None, endpoint=server.url)

Latency is waited for before each answer; bytes leave at a pace per connection and for all. A fault
befalls the requests whose range holds the byte `at`, as they reach it, so many times as it says.
`python -m tests.ranged_server FILE SHAPE [CERTIFICATE]` serves a file in a process of its own.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import google_crc32c
import numpy as np

from tests.tls import serving
from worker.pipeline.weights.crc import Octets, to_text

BUCKET, OBJECT = "illo-weights", "kontext/transformer/model.gguf"
STAT = f"/storage/v1/b/{BUCKET}/o/{OBJECT.replace('/', '%2F')}"
MEDIA = f"/download{STAT}"
SLICE = 128 * 1024  # bytes that leave at once
CATCH_UP = 0.02  # seconds that a late sleeper may make good

# What can go wrong.
STALL = "nothing more comes, and the connection stays"
BUSY = "503 instead of the range"
RESET = "the connection is reset"
SHORT = "the connection ends"
FLIPPED = "one bit of the byte becomes another on the way"
MOVED = "the range is of other bytes than those asked for, and says so"
REPLACED = "the object is written anew before the answer"
UNPINNED = "the range is of another generation than the one asked for, and says so"
FORBIDDEN = "403 instead of the range"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at a byte, and how often."""

    kind: str
    at: int
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the link is: seconds before an answer, bytes a second; 0 is as fast as it goes."""

    latency: float = 0.0
    per_connection: float = 0.0
    total: float = 0.0
    faults: tuple[Fault, ...] = ()


class Pace:
    """Lets bytes pass at a rate, for all who share it."""

    def __init__(self, rate: float) -> None:
        self._rate, self._next = rate, 0.0
        self._lock = threading.Lock()

    def due(self, count: int) -> float:
        """When so many bytes have passed, if they queue up now."""
        if not self._rate:
            return 0.0
        with self._lock:
            self._next = max(self._next, time.monotonic() - CATCH_UP) + count / self._rate
            return self._next


class RangedServer(ThreadingHTTPServer):
    """The server; `asked` lists the ranges in the order in which they were asked for."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, octets: Octets, shape: Shape, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.octets, self.shape = octets, shape
        self.crc32c = to_text(google_crc32c.value(octets))
        self.generation = 7
        self.asked: list[tuple[int, int]] = []
        self.happened: list[str] = []
        self.tokens: set[str | None] = set()
        self.closing = threading.Event()
        self.pace = Pace(shape.total)
        self.lock = threading.Lock()
        self._faults = list(shape.faults)
        self._tls = serving(certificate) if certificate else None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.server_address[1]}"

    def fault_in(self, start: int, stop: int, kinds: tuple[str, ...]) -> Fault | None:
        """Take the first fault that lies in a range."""
        with self.lock:
            for number, fault in enumerate(self._faults):
                if fault.kind in kinds and start <= fault.at < stop:
                    left = replace(fault, times=fault.times - 1)
                    self._faults[number : number + 1] = [left] if left.times else []
                    self.happened.append(fault.kind)
                    return fault
        return None

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; hands are shaken in its own thread."""
        accepted, address = super().get_request()
        if self._tls is None:
            return accepted, address
        return (
            self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False),
            address,
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are what is tested."""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RangedServer

    def setup(self) -> None:
        super().setup()
        self._pace = Pace(self.server.shape.per_connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        at = urlsplit(self.path)
        self.server.tokens.add(self.headers["Authorization"])
        if at.path == STAT:
            self._stat()
        elif at.path == MEDIA:
            self._media(parse_qs(at.query))
        else:
            self._refuse(404)

    def _stat(self) -> None:
        server = self.server
        found = {"size": str(server.octets.size), "generation": str(server.generation)}
        body = json.dumps({**found, "crc32c": server.crc32c}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _media(self, query: dict[str, list[str]]) -> None:
        server, size = self.server, self.server.octets.size
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start, stop = int(first), int(last) + 1
        with server.lock:
            server.asked.append((start, stop))
        time.sleep(server.shape.latency)
        instead = server.fault_in(start, stop, (BUSY, FORBIDDEN, MOVED, REPLACED, UNPINNED))
        if instead and instead.kind in (BUSY, FORBIDDEN):
            return self._refuse(503 if instead.kind == BUSY else 403)
        if instead and instead.kind == REPLACED:
            server.generation += 1
        if query.get("generation") != [str(server.generation)]:
            return self._refuse(404)
        if instead and instead.kind == MOVED:
            start, stop = start - 1, stop - 1
        self.send_response(206)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        other = bool(instead and instead.kind == UNPINNED)
        self.send_header("X-Goog-Generation", str(server.generation + other))
        self.end_headers()
        return self._give(start, stop)

    def _give(self, start: int, stop: int) -> None:
        while start < stop:
            end = min(start + SLICE, stop)
            slice_ = self.server.octets[start:end]
            fault = self.server.fault_in(start, end, (STALL, RESET, SHORT, FLIPPED))
            if fault and fault.kind == FLIPPED:
                slice_ = slice_.copy()
                slice_[fault.at - start] ^= 1
            elif fault:
                return self._fail(fault.kind, slice_[: fault.at - start])
            due = max(self._pace.due(end - start), self.server.pace.due(end - start))
            time.sleep(max(0.0, due - time.monotonic()))
            self.connection.sendall(slice_.data)
            start = end
        return None

    def _fail(self, kind: str, before: Octets) -> None:
        self.connection.sendall(before.data)
        self.close_connection = True
        if kind == STALL:
            self.server.closing.wait()
        elif kind == RESET:
            at_once = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            self.connection.close()

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def ranged_server(
    octets: Octets, *, certificate: Path | None = None, **shape: Any
) -> Iterator[RangedServer]:
    """Serve until the block ends; over TLS where a certificate is given."""
    server = RangedServer(octets, Shape(**shape), certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def to_argument(shape: Shape) -> str:
    """Write a shape as the program's second argument."""
    return json.dumps(asdict(shape))


def main(file: str, shape: str, certificate: str = "") -> None:
    """Serve a file until killed; the first line printed is the address."""
    told = json.loads(shape)
    told["faults"] = tuple(Fault(**fault) for fault in told["faults"])
    octets = np.fromfile(Path(file), dtype=np.uint8)
    server = RangedServer(octets, Shape(**told), Path(certificate) if certificate else None)
    print(json.dumps({"url": server.url}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
