"""The API as a process, with either server: it says where it listens, and ends in order."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.errors import BadSettings
from shared.requirements import require_loopback
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PROGRAMS = ("api.main", "api.gunicorn_server")


class Served:
    """A process of the API, and its events as they come."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stderr
        self.events = (json.loads(line) for line in process.stderr)

    def event(self, message: str) -> Any:
        return next(event for event in self.events if event["message"] == message)


@contextmanager
def serving(
    folder: Path, program: str = PROGRAMS[0], *, code: str | None = None, **environment: str
) -> Iterator[Served]:
    own = {"ILLO_DATA": str(folder), "PORT": "0", "PYTHONPATH": str(ROOT)}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ILLO_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code or f"from {program} import main; main()"],
        env=inherited | own | environment,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield Served(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_tells_its_port_answers_and_ends_at_a_signal(tmp_path: Path, program: str) -> None:
    for sign in (signal.SIGTERM, signal.SIGINT):
        with serving(tmp_path, program) as served:
            port = served.event("listening")["port"]
            caller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            caller.request("GET", "/readyz")
            assert caller.getresponse().read() == b'{"status":"ok"}'
            served.process.send_signal(sign)
            assert served.event("ended")
            assert served.process.wait(30) == 0


def test_a_request_that_waits_is_answered_before_the_end(tmp_path: Path, program: str) -> None:
    with serving(tmp_path, program) as served:
        port = served.event("listening")["port"]
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body, kind = json.dumps({"prompt": "a secret"}), {"Content-Type": "application/json"}
        caller.request("POST", "/v1/jobs", body, kind)
        job = json.loads(caller.getresponse().read())["id"]
        # a connection of its own: the first one is not read again before its answer is settled
        poller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        poller.request("GET", f"/v1/jobs/{job}?wait=60")
        # accepted and read in order: once this one is answered, the poll before it has a thread
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        other.request("GET", "/healthz")
        assert other.getresponse().read()
        served.process.send_signal(signal.SIGTERM)
        answer = poller.getresponse()
        assert (answer.status, json.loads(answer.read())["id"]) == (200, job)
        assert served.process.wait(30) == 0


@pytest.mark.parametrize(
    "header",
    [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Content-Length: " + "9" * 5000,
        "Content-Length: -1",
    ],
    ids=["gzip", "identity", "thousands of digits", "negative"],
)
def test_a_body_that_cannot_be_read_is_the_callers_fault(
    tmp_path: Path, program: str, header: str
) -> None:
    with serving(tmp_path, program) as served:
        port = served.event("listening")["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
            caller.sendall(
                f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode()
            )
            assert caller.recv(100).startswith(b"HTTP/1.1 400 ")


def test_what_a_thread_cannot_send_at_once_is_sent_in_full(tmp_path: Path, program: str) -> None:
    with serving(tmp_path, program) as served:
        port = served.event("listening")["port"]
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        caller.request("GET", "/openapi.json")
        assert json.loads(caller.getresponse().read())["openapi"] == "3.1.0"


def test_prompts_and_queries_reach_no_log(tmp_path: Path, program: str) -> None:
    with serving(tmp_path, program, ILLO_LOG_LEVEL="debug") as served:
        port = served.event("listening")["port"]
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        kind = {"Content-Type": "application/json", "Idempotency-Key": "hush-key"}
        for body in ('{"prompt": "hush"}', '{"prompt": "hush", "steps": "hush"}', '{"hush'):
            caller.request("POST", "/v1/jobs", body, kind)
            caller.getresponse().read()
        caller.request("GET", "/v1/jobs?metadata[hush]=hush")
        caller.getresponse().read()
        served.process.send_signal(signal.SIGTERM)
        events = list(served.events)
    assert [event["status"] for event in events if event["message"] == "answered"] == [
        202, 422, 400, 200,
    ]  # fmt: skip
    assert "hush" not in json.dumps(events)


def test_without_weights_it_does_not_start(tmp_path: Path, program: str) -> None:
    with serving(tmp_path, program, ILLO_WEIGHTS=str(tmp_path)) as served:
        reason = served.event("cannot start")["reason"]
        assert "manifest.json" in reason
        assert served.process.wait(30) == 3


def test_wrong_settings_are_all_told(tmp_path: Path, program: str) -> None:
    with serving(tmp_path, program, ILLO_WORKERS="none", ILLO_COLOUR="red") as served:
        _, told = served.process.communicate(timeout=30)
        assert served.process.returncode == 2
        assert "ILLO_WORKERS" in told
        assert "ILLO_COLOUR" in told


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_it_may_listen_on_this_machine(host: str) -> None:
    require_loopback(Settings.model_validate({"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.x"])
def test_without_keys_it_does_not_listen_for_others(host: str) -> None:
    with pytest.raises(BadSettings, match="ILLO_HOST"):
        require_loopback(Settings.model_validate({"host": host}))


def test_a_caller_that_sends_no_http_is_sent_away(tmp_path: Path, program: str) -> None:
    with serving(tmp_path, program) as served:
        port = served.event("listening")["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
            caller.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            assert caller.recv(100).startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
