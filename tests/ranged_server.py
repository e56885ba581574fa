"""A bucket that gives ranges of its objects as slowly and as wrongly as it is told.

    with ranged_server(octets, faults=(Fault(RESET, at=5_000_000),)) as server:
        CloudObject(BUCKET, OBJECT, token=lambda: None, endpoint=server.url)

It holds one object, or those of a mapping from names.

Latency is waited for before each answer; bytes leave at a pace per connection and for all. A fault
befalls the requests whose range holds the byte `at`, as they reach it, so many times as it says.
`python -m tests.ranged_server FILE SHAPE [CERTIFICATE]` serves a file, or a folder's files below
PREFIX, in a process of its own.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import numpy as np

from tests.tls import serving
from worker.pipeline.weights.crc import Octets, to_text

BUCKET, PREFIX = "illo-weights", "kontext"
OBJECT = f"{PREFIX}/transformer/model.gguf"
FOLDER = f"gs://{BUCKET}/{PREFIX}"
STAT = f"/storage/v1/b/{BUCKET}/o/"
MEDIA = f"/download{STAT}"
SLICE = 128 * 1024  # bytes that leave at once
LARGE = 100 * 10**6  # bytes
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
    """What goes wrong at a byte of an object, and how often."""

    kind: str
    at: int
    times: int = 1
    object: str = OBJECT


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
    """The server; `asked` lists the ranges in the order in which they were asked for.

    `asked_of` lists them with the object's name.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, objects: Mapping[str, Octets], shape: Shape, certificate: Path | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.objects, self.shape = objects, shape
        self.crc32cs = {
            name: to_text(google_crc32c.value(octets)) for name, octets in objects.items()
        }
        self.generation = 7
        self.asked_of: list[tuple[str, int, int]] = []
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

    @property
    def asked(self) -> list[tuple[int, int]]:
        """The ranges, of whatever object."""
        return [(start, stop) for _, start, stop in self.asked_of]

    @property
    def crc32c(self) -> str:
        """The checksum of the one object."""
        return self.crc32cs[OBJECT]

    def fault_in(self, name: str, start: int, stop: int, kinds: tuple[str, ...]) -> Fault | None:
        """Take the first fault that lies in a range of an object."""
        with self.lock:
            for number, fault in enumerate(self._faults):
                if fault.object == name and fault.kind in kinds and start <= fault.at < stop:
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
        for begin, answer in ((STAT, self._stat), (MEDIA, self._media)):
            name = unquote(at.path.removeprefix(begin))
            if at.path.startswith(begin) and name in self.server.objects:
                return answer(name, parse_qs(at.query))
        return self._refuse(404)

    def _stat(self, name: str, _: dict[str, list[str]]) -> None:
        server = self.server
        time.sleep(server.shape.latency)
        found = {"size": str(server.objects[name].size), "generation": str(server.generation)}
        body = json.dumps({**found, "crc32c": server.crc32cs[name]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _media(self, name: str, query: dict[str, list[str]]) -> None:
        server, size = self.server, self.server.objects[name].size
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start, stop = int(first), int(last) + 1 if last else size
        with server.lock:
            server.asked_of.append((name, start, stop))
        time.sleep(server.shape.latency)
        kinds = (BUSY, FORBIDDEN, MOVED, REPLACED, UNPINNED)
        instead = server.fault_in(name, start, stop, kinds)
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
        return self._give(name, start, stop)

    def _give(self, name: str, start: int, stop: int) -> None:
        while start < stop:
            end = min(start + SLICE, stop)
            slice_ = self.server.objects[name][start:end]
            fault = self.server.fault_in(name, start, end, (STALL, RESET, SHORT, FLIPPED))
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
    held: "Octets | Mapping[str, Octets]", *, certificate: Path | None = None, **shape: Any
) -> Iterator[RangedServer]:
    """Serve until the block ends; over TLS where a certificate is given."""
    objects = held if isinstance(held, Mapping) else {OBJECT: held}
    server = RangedServer(objects, Shape(**shape), certificate)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def objects_of(folder: Path) -> dict[str, Octets]:
    """Hold every file of a folder as an object below PREFIX."""
    return {
        f"{PREFIX}/{path.relative_to(folder).as_posix()}": _mapped(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _mapped(path: Path) -> Octets:
    """Hold a large file in the page cache only."""
    if path.stat().st_size < LARGE:
        return np.fromfile(path, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r")


def to_argument(shape: Shape) -> str:
    """Write a shape as the program's second argument."""
    return json.dumps(asdict(shape))


def main(file: str, shape: str, certificate: str = "") -> None:
    """Serve a file until killed; the first line printed is the address."""
    told = json.loads(shape)
    told["faults"] = tuple(Fault(**fault) for fault in told["faults"])
    path = Path(file)
    held = objects_of(path) if path.is_dir() else {OBJECT: _mapped(path)}
    server = RangedServer(held, Shape(**told), Path(certificate) if certificate else None)
    print(json.dumps({"url": server.url}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
