"""The servers that are measured, each in a process group of its own that ends with its block."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import urllib3

from shared.settings import Settings, child_environment
from worker.pipeline.tiny import make_tiny_weights

STARTS_WITHIN = 60.0


@contextmanager
def a_server(code: str, environment: Mapping[str, str], *arguments: str) -> Iterator[None]:
    """Run Python code until the block ends."""
    program = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=dict(environment),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


@contextmanager
def bare_flask(settings: Settings) -> Iterator[str]:
    """Serve one constant answer with the same server and as many threads."""
    port = a_port()
    code = "from benchmarks.bare import main; import sys; main(int(sys.argv[1]), int(sys.argv[2]))"
    with a_server(code, child_environment(settings), str(port), str(settings.http_threads)):
        yield answering(f"http://127.0.0.1:{port}")


@contextmanager
def the_api(settings: Settings) -> Iterator[str]:
    """Serve illo's API alone, without a queue and workers."""
    own = settings.model_copy(update={"port": a_port()})
    with a_server("from api.main import main; main()", child_environment(own)):
        yield answering(f"http://127.0.0.1:{own.port}")


@contextmanager
def all_of_illo(data: Path) -> Iterator[str]:
    """Serve everything, as `illo up` does, with weights that draw as fast as any."""
    weights = data.with_name("random-weights")
    make_tiny_weights(weights)
    program = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", "up", "--json", "--port", "0",
         "--data", str(data), "--weights", str(weights)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert program.stdout
        yield json.loads(program.stdout.readline())["url"]
        program.send_signal(signal.SIGTERM)
        program.wait(30)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)


def a_port() -> int:
    """Find a free port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def answering(url: str) -> str:
    """Wait until a server answers."""
    latest = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < latest:
        try:
            urllib3.request("GET", f"{url}/healthz", retries=False, timeout=2.0)
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)
        else:
            return url
    raise TimeoutError(f"{url} did not answer within {STARTS_WITHIN:g} s")
