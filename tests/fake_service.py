"""A service that gives scripted answers, for tests of its callers."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class FakeService:
    """Answers each route with what it was told, in turn, and then with the last of it.

    None as an answer closes the connection without one.
    """

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self._answers: dict[tuple[str, str], list[tuple[int, Any, Mapping[str, str]]]] = {}
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._answering())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(
        self,
        method: str,
        path: str,
        *answers: Any,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Add answers to a route: bytes as they are, anything else as JSON."""
        known = self._answers.setdefault((method, path), [])
        known.extend((status, answer, headers or {}) for answer in answers)

    def asked(self, method: str, path: str) -> list[Asked]:
        """List the requests of a route."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)]

    def bodies(self, method: str, path: str) -> list[Any]:
        """List the JSON bodies of a route's requests."""
        return [json.loads(one.body) for one in self.asked(method, path)]

    def wait_for(self, method: str, path: str) -> None:
        """Wait until a request of a route has arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.asked(method, path), 60)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, asked: Asked) -> tuple[int, Any, Mapping[str, str]]:
        with self._arrived:
            self.requests.append(asked)
            self._arrived.notify_all()
            answers = self._answers.get((asked.method, asked.path))
            if not answers:
                return 404, problem(404, "not_found"), {}
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def _answering(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler
        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(method=self.command, path=path, query=query,
                              headers=dict(self.headers), body=body)  # fmt: skip
                status, answer, headers = fake._take(asked)
                if answer is None:
                    self.close_connection = True
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Answering


def problem(status: int, code: str, faults: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write a refusal as the service does."""
    errors = [{"pointer": at, "detail": detail} for at, detail in (faults or {}).items()]
    return {"status": status, "code": code, "detail": f"this is {code}", "errors": errors}


def a_job_body(status: str, *, id: str = "job_a", **told: Any) -> dict[str, Any]:
    """Write a job as the service does, as far as the command line reads it."""
    shape = {"width": 64, "height": 64, "steps": 4, "seed": 1, "prompt": "Mia [/b]"}
    job = {"id": id, "object": "job", "status": status, "attempt": 1, "input": shape,
           "created_at": "2026-03-01T12:00:00Z", "queue": {"reason": "next in turn"},
           "progress": None, "images": [], "error": None, "batch": None, "timeline": [],
           "metrics": {"gpu_seconds": 1.5}, "cancel_requested_at": None}  # fmt: skip
    return {**job, **told}


def an_image_body(content: bytes, *, job: str = "job_a", index: int = 0) -> dict[str, Any]:
    """Write an image as the service does."""
    digest = hashlib.sha256(content).hexdigest()
    url = f"/v1/jobs/{job}/images/{index}"
    return {"index": index, "url": url, "content_type": "image/png", "sha256": digest}
