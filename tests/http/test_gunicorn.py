"""The API under gunicorn, where it differs from `illo-api`: its own limits, words and shares."""

import http.client
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from api.gunicorn_server import options
from shared.settings import Settings
from tests.http.test_serving import Served, serving

PROGRAM = "api.gunicorn_server"
LONGEST_POLL = 60  # seconds; docs/http-api
PLATFORM_KILLS_AFTER = 10  # seconds


def chosen(**settings: Any) -> dict[str, Any]:
    return options(Settings.model_validate(settings))


def test_threads_address_and_port_are_the_settings() -> None:
    asked = chosen(http_threads=5, host="0.0.0.0", PORT=1234)
    assert (asked["threads"], asked["bind"]) == (5, ["0.0.0.0:1234"])
    assert chosen(host="::1", PORT=1)["bind"] == ["[::1]:1"]


def test_gunicorn_knows_every_option() -> None:
    known = Config()
    for name, value in chosen().items():
        known.set(name, value)


def test_what_a_process_counts_and_waits_for_it_counts_once() -> None:
    assert chosen()["workers"] == 1


def test_a_long_poll_is_no_hang_and_a_drain_ends_before_the_platform_kills() -> None:
    assert chosen()["timeout"] > LONGEST_POLL
    assert chosen()["graceful_timeout"] < PLATFORM_KILLS_AFTER


def test_nothing_is_written_but_to_memory() -> None:
    asked = chosen()
    assert asked["control_socket_disable"]
    assert asked["worker_tmp_dir"] in (None, "/dev/shm")


def answer_to(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
        caller.sendall(request)
        told = b""
        while part := caller.recv(65_536):
            told += part
        return told


UNREADABLE = {
    "a long header": (b"GET /healthz HTTP/1.1\r\nX: " + b"hush" * 10_000 + b"\r\n\r\n", 431),
    "many headers": (b"GET /healthz HTTP/1.1\r\n" + b"X: hush\r\n" * 200 + b"\r\n", 431),
    "a long line": (b"GET /healthz?hush=" + b"hush" * 5_000 + b" HTTP/1.1\r\n\r\n", 414),
    "a name": (b"GET /healthz HTTP/1.1\r\nAuthorization : Bearer hush\r\n\r\n", 400),
    "a value": (b"GET /healthz HTTP/1.1\r\nAuthorization: Bearer hush\x00\r\n\r\n", 400),
    "a method": (b"HU(SH /healthz HTTP/1.1\r\n\r\n", 400),
}


def test_what_cannot_be_read_is_refused_in_plain_text_and_repeated_nowhere(tmp_path: Path) -> None:
    with serving(tmp_path, PROGRAM, ILLO_LOG_LEVEL="debug") as served:
        port = served.event("listening")["port"]
        for what, (head, status) in UNREADABLE.items():
            told = answer_to(port, head)
            assert told.startswith(b"HTTP/1.1 %d " % status), what
            assert b"text/plain" in told
            assert b"hush" not in told.lower()
        rest = ended(served)
    refused = [event["status"] for event in rest if event["message"] == "unreadable"]
    assert refused == [status for _, status in UNREADABLE.values()]
    assert "hush" not in str(rest).lower()


def test_a_path_of_two_slashes_is_found_as_little_as_elsewhere(tmp_path: Path) -> None:
    request = b"GET //v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    told = []
    for program in ("api.main", PROGRAM):
        with serving(tmp_path, program) as served:
            answer = answer_to(served.event("listening")["port"], request)
            told.append((answer.split()[1], answer.split(b'"instance":')[1].split(b",")[0]))
    assert told == [(b"404", b'"/./v1/jobs"')] * 2


def test_nothing_that_a_caller_says_of_itself_is_believed(tmp_path: Path) -> None:
    forged = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "Script_Name": "/v1"}
    with serving(tmp_path, PROGRAM) as served:
        caller = http.client.HTTPConnection("127.0.0.1", served.event("listening")["port"])
        caller.request("GET", "/healthz", headers=forged)
        assert caller.getresponse().status == 200


def test_the_environment_of_gunicorn_has_no_say(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit(9)")
    told = {"GUNICORN_CMD_ARGS": "--workers=3", "WEB_CONCURRENCY": "3"}
    with serving(tmp_path, PROGRAM, **told) as served:
        served.event("listening")
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        assert len(children.read_text().split()) == 1


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, PROGRAM) as served:
        port = served.event("listening")["port"]
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        os.kill(int(children.read_text()), signal.SIGKILL)
        assert served.event("listening")["port"] == port
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        caller.request("GET", "/healthz")
        assert caller.getresponse().status == 200


@pytest.mark.slow
def test_a_caller_that_falls_silent_keeps_no_thread(tmp_path: Path) -> None:
    silence = f"import {PROGRAM} as server; server.SILENCE_SECONDS = 1; server.main()"
    with serving(tmp_path, PROGRAM, code=silence, ILLO_HTTP_THREADS="2") as served:
        port = served.event("listening")["port"]
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for caller in silent:
            caller.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert answer_to(port, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert served.event("silent")
        for caller in silent:
            caller.close()


@pytest.mark.slow
def test_a_body_that_stops_coming_is_the_callers_fault(tmp_path: Path) -> None:
    silence = f"import {PROGRAM} as server; server.SILENCE_SECONDS = 1; server.main()"
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for length in (b"Content-Length: 99\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
        with serving(tmp_path, PROGRAM, code=silence) as served:
            told = answer_to(served.event("listening")["port"], head + length)
            rest = ended(served)
        assert told.startswith(b"HTTP/1.1 400 ")
        assert not [event for event in rest if event["severity"] == "ERROR"]


def ended(served: Served) -> list[dict[str, Any]]:
    served.process.send_signal(signal.SIGTERM)
    return list(served.events)
