"""A small Cloud Storage of our own, strict where Google's emulator is not, that fails on demand.

    with strict_storage() as url:
        CloudArtifactStore(BUCKET, emulator=url)

The emulator ignores every precondition, generation and signature; this one keeps to them. Who wants
faults makes the server first and says so: `server.fail(LOST, at=UPLOAD)`.
"""

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.strict_objects import BUCKET, CONDITIONS, Objects, Refused, StoredObject

__all__ = ["BUCKET", "StrictStorage", "strict_storage"]

# What can be asked for.
UPLOAD, BEGIN, PART, STAT, DOWNLOAD, DELETE, LINK, LIST, COMPOSE = (
    "upload", "begin", "part", "stat", "download", "delete", "link", "list", "compose",
)  # fmt: skip
# What can go wrong with it.
BUSY = "503 instead of doing it"
LOST = "503 after doing it"
GONE = "the connection ends after doing it, without an answer"
FORBIDDEN = "403 instead of doing it"
RESET = "the connection is reset in the middle of the body"
CUT = "the connection ends in the middle of the body"
SHORT = "half of the body is given as the whole"
FLIPPED = "one bit of the bytes becomes another on the way"
SLOW = "the answer comes after a pause"

PAUSE = 1.0  # seconds
KNOWN = frozenset(
    {"alt", "prettyPrint", "projection", "uploadType", "upload_id", "generation", *CONDITIONS}
    | {"prefix", "maxResults", "pageToken"}
)
Act = Callable[[], None]


class StrictStorage:
    """The server; `seen` is what was asked of it."""

    def __init__(self) -> None:
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.objects = Objects(lambda: self.now())
        self.seen: list[str] = []
        self.before: Callable[[str], None] = lambda what: None  # a test's barrier
        self._faults: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def fail(self, fault: str, *, at: str, times: int = 1) -> None:
        """Let the next requests of one kind go wrong."""
        with self._lock:
            self._faults += [(at, fault)] * times

    def heal(self) -> None:
        """Forget the faults that have not happened yet."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, what: str) -> str | None:
        """Note a request, and say how it is to fail."""
        with self._lock:
            self.seen.append(what)
            for number, (at, fault) in enumerate(self._faults):
                if at == what:
                    del self._faults[number]
                    return fault
        return None


@contextmanager
def strict_storage(server: StrictStorage | None = None) -> Iterator[str]:
    """Serve on a free port while the block runs; yields the base URL. BUCKET is there already."""
    storage = server or StrictStorage()
    http = _Server(("127.0.0.1", 0), _handler(storage))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _handler(storage: StrictStorage) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"storage": storage})


class _Handler(BaseHTTPRequestHandler):
    storage: StrictStorage
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 30

    def _serve(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        self.raw_path = url.path
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.fault: str | None = None
        try:
            what, act = self._route()
            self.storage.before(what)
            self._at_fault(what, act)
        except Refused as refused:
            self._answer(refused.status, {"error": {"code": refused.status,
                                                    "message": refused.message}})  # fmt: skip

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _route(self) -> tuple[str, Act]:
        objects, query = self.storage.objects, self.query
        if not self.raw_path.startswith(("/storage/", "/upload/", "/download/")):
            return LINK, self._follow_link
        if unknown := query.keys() - KNOWN:
            raise Refused(400, f"unknown parameters: {sorted(unknown)}")
        match = re.fullmatch(
            r"(/upload|/download)?/storage/v1/b(?:/([^/]+))?(/o)?(?:/([^/]+))?(/compose)?",
            self.raw_path,
        )
        if match is None:
            raise Refused(404, f"there is nothing at {self.raw_path}")
        side, bucket, _, quoted, composing = match.groups()
        name = unquote(quoted or "")
        kind = composing or query.get("uploadType")
        match (self.command, side, bool(name), kind, query.get("alt")):
            case ("POST", None, True, "/compose", _):
                return COMPOSE, lambda: self._compose(bucket, name)
            case ("POST", "/upload", False, "multipart", _):
                return UPLOAD, lambda: self._take_whole(bucket)
            case ("POST", "/upload", False, "resumable", _):
                return BEGIN, lambda: self._begin(bucket)
            case ("PUT", "/upload", False, "resumable", _):
                return PART, self._take_part
            case ("GET", "/download" | None, True, _, "media"):
                return DOWNLOAD, lambda: self._send(objects.read(bucket, name, query))
            case ("GET", None, True, _, _):
                return STAT, lambda: self._answer(200, self._read(bucket, name))
            case ("DELETE", None, True, _, _):
                return DELETE, lambda: self._delete(bucket, name)
            case ("GET" | "POST", None, False, _, _):
                return self._route_bucket(bucket)
        raise Refused(405, f"{self.command} {self.raw_path} is nothing that is known here")

    def _route_bucket(self, bucket: str | None) -> tuple[str, Act]:
        objects = self.storage.objects
        if self.command == "GET" and bucket:
            listing = self.raw_path.endswith("/o")
            found = partial(objects.page, query=self.query) if listing else objects.bucket
            return LIST if listing else "bucket", lambda: self._answer(200, found(bucket))
        if self.command == "POST" and not bucket:
            made = json.loads(self.content)["name"]
            return "bucket", lambda: self._answer(200, objects.create_bucket(made))
        raise Refused(405, f"{self.command} {self.raw_path} is nothing that is known here")

    def _at_fault(self, what: str, act: Act) -> None:
        self.fault = self.storage.take_fault(what)
        if self.fault == BUSY:
            raise Refused(503, "busy")
        if self.fault == FORBIDDEN:
            raise Refused(403, "the caller does not have the permission")
        if self.fault == SLOW:
            time.sleep(PAUSE)
        act()

    # --- what is asked for ---

    def _read(self, bucket: str, name: str) -> dict[str, Any]:
        return self.storage.objects.read(bucket, name, self.query).described()

    def _take_whole(self, bucket: str) -> None:
        kind = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        description, media = BytesParser(policy=HTTP).parsebytes(kind + self.content).iter_parts()
        # the parser mends line ends, so the bytes are cut out of the body as it came
        boundary = b"\r\n--" + self.headers.get_boundary().encode()  # type: ignore[union-attr]
        start = self.content.index(b"\r\n\r\n", self.content.index(boundary)) + 4
        data = self.content[start : self.content.rindex(boundary)]
        told = {"contentType": media.get_content_type()} | json.loads(description.get_content())
        self.storage.objects.sent.append(told.get("name", ""))
        stored = self.storage.objects.write(bucket, told, self._arrived(data), self.query)
        self._answer(200, stored.described())

    def _begin(self, bucket: str) -> None:
        kind = {"contentType": self.headers.get("X-Upload-Content-Type", "")}
        told = kind | json.loads(self.content)
        number = self.storage.objects.begin(bucket, told, self.query)
        place = f"http://{self.headers['Host']}{self.raw_path}?uploadType=resumable&upload_id="
        self._answer(200, {}, Location=place + number)

    def _take_part(self) -> None:
        names = {"crc32c": "crc32c", "md5": "md5Hash"}
        given = [pair.partition("=") for pair in self.headers.get("X-Goog-Hash", "").split(",")]
        upload = self.storage.objects.resume(
            self.query["upload_id"],
            self.headers["Content-Range"],
            self._arrived(self.content),
            {names[kind]: value for kind, _, value in given if kind},
        )
        if upload.done:
            self._answer(200, upload.done.described())
        elif upload.received:
            self._answer(308, None, Range=f"bytes=0-{len(upload.received) - 1}")
        else:
            self._answer(308, None)

    def _arrived(self, data: bytes) -> bytes:
        if self.fault != FLIPPED:
            return data
        self.fault = None
        return _flipped(data)

    def _compose(self, bucket: str, name: str) -> None:
        asked = json.loads(self.content)
        made = self.storage.objects.compose(bucket, name, asked, self.query)
        self._answer(200, made.described())

    def _delete(self, bucket: str, name: str) -> None:
        self.storage.objects.delete(bucket, name, self.query)
        self._answer(204, None)

    def _follow_link(self) -> None:
        self.storage.objects.check_signature(self.headers["Host"], self.raw_path, self.query)
        _, bucket, name = unquote(self.raw_path).split("/", 2)
        self._send(self.storage.objects.read(bucket, name, self.query, link=True))

    # --- how it is answered ---

    def _send(self, there: StoredObject) -> None:
        data, status, headers = there.data, 200, {}
        if span := self.headers.get("Range"):
            first, last = _bounds(span, len(data))
            headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            data, status = data[first : last + 1], 206
        self._body(
            status, data,
            {
                "Content-Type": there.content_type,
                "X-Goog-Generation": str(there.generation),
                "X-Goog-Hash": there.hashes,
                "X-Goog-Stored-Content-Length": str(len(there.data)),
                **headers,
            },
        )  # fmt: skip

    def _answer(self, status: int, document: object, **headers: str) -> None:
        content = b"" if document is None or status == 304 else json.dumps(document).encode()
        self._body(status, content, {"Content-Type": "application/json", **headers})

    def _body(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        fault, self.fault = self.fault, None
        if fault == LOST:
            raise Refused(503, "done, but who knows")
        if fault == GONE:
            self.close_connection = True
            return
        if fault == FLIPPED:
            content = _flipped(content)
        half = content[: len(content) // 2]
        if fault == SHORT:
            content = half
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(half if fault in (RESET, CUT) else content)
        self.wfile.flush()
        if fault in (RESET, CUT):
            self._hang_up(reset=fault == RESET)

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:  # lingering for no time turns the end into a reset
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _bounds(span: str, size: int) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", span)
    if match is None:
        raise Refused(400, f"cannot read the range {span}")
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    if int(first) >= size:
        raise Refused(416, "the range begins behind the end")
    return int(first), min(int(last or size), size - 1)
