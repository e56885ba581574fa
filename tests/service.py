"""A whole illo in processes of its own, as a person starts it, for tests that kill parts of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from shared.settings import process_environment

Found = TypeVar("Found")
FINAL = {"succeeded", "failed", "canceled"}


class Service:
    """A running `illo up`: requests to it, its present process ids, and how to kill them."""

    def __init__(
        self, data: Path, program: "subprocess.Popen[str]", url: str, key: str | None
    ) -> None:
        self.data, self.program, self.url = data, program, url
        self._bearer = {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = urllib3.PoolManager(maxsize=64, retries=False)

    def pids(self) -> dict[str, Any]:
        """Read the present ids, as run.json has them."""
        return dict(json.loads((self.data / "run.json").read_text())["processes"])

    def kill(self, kind: str) -> int:
        """SIGKILL the present process of a kind; return its id."""
        found = self.pids()[kind]
        pid = int(found[0] if isinstance(found, list) else found)
        os.kill(pid, signal.SIGKILL)
        return pid

    def request(self, method: str, path: str, **given: Any) -> urllib3.BaseHTTPResponse:
        """Ask once; raises urllib3's errors when the connection breaks."""
        headers = {**self._bearer, **given.pop("headers", {})}
        return self._pool.request(method, self.url + path, timeout=70.0, headers=headers, **given)

    def get(self, path: str) -> Any:
        """GET JSON, through restarts of the API."""
        return self.patiently(lambda: self._answered("GET", path, (200,)))

    def post(self, path: str, body: Any, key: str | None = None) -> Any:
        """POST JSON until it is accepted, through restarts of the API if there is a key."""
        headers = {"Idempotency-Key": key} if key else {}
        ask = lambda: self._answered("POST", path, (200, 201, 202), json=body, headers=headers)  # noqa: E731
        return self.patiently(ask) if key else ask()

    def upload(self, content: bytes) -> str:
        """Upload an image; return the asset's id."""
        fields = {"file": ("image.png", content, "image/png")}
        return str(self._answered("POST", "/v1/assets", (200, 201), fields=fields)["id"])

    def image(self, job: Mapping[str, Any], index: int = 0) -> bytes:
        """Download a drawn image."""
        answer = self.request("GET", job["images"][index]["url"])
        assert answer.status == 200, answer.data
        return answer.data

    def ended(self, id: str, within: float = 120) -> dict[str, Any]:
        """Wait until a job has ended."""
        return self.until(
            lambda: self.get(f"/v1/jobs/{id}?wait=5"), lambda job: job["status"] in FINAL, within
        )

    def until(
        self, look: Callable[[], Found], wanted: Callable[[Found], bool], within: float = 60
    ) -> Found:
        """Look again and again until it is as wanted; fails with what was seen last."""
        latest = time.monotonic() + within
        while True:
            seen = look()
            if wanted(seen):
                return seen
            assert time.monotonic() < latest, f"not within {within:g} s; last seen: {seen}"
            time.sleep(0.05)

    def patiently(self, ask: Callable[[], Found], within: float = 60) -> Found:
        """Ask again while the connection breaks, as it does when the API is killed."""
        latest = time.monotonic() + within
        while True:
            try:
                return ask()
            except urllib3.exceptions.HTTPError:
                assert time.monotonic() < latest, "the API did not come back"
                time.sleep(0.05)

    def _answered(self, method: str, path: str, expected: tuple[int, ...], **given: Any) -> Any:
        answer = self.request(method, path, **given)
        assert answer.status in expected, (answer.status, answer.data)
        return answer.json()


@contextmanager
def running(data: Path, *flags: str, **settings: str) -> Iterator[Service]:
    """Run `illo up` in its own process group until the block ends, then end whatever is left."""
    named = {f"ILLO_{name.upper()}": value for name, value in settings.items()}
    program = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()",
         "up", "--json", "--port", "0", "--data", str(data), *flags],
        env={**process_environment(), **named}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line, f"illo up ended with {program.wait(10)}"
        announced = json.loads(line)
        yield Service(data, program, announced["url"], announced["key"])
        program.send_signal(signal.SIGTERM)
        program.wait(40)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
