"""The API behind a front end, as its image runs it: gunicorn serves, by the same settings.

One master that does nothing but watch, and one worker with threads: what is counted and waited
for (long polls, counters) is counted once. Decision 10 compares it with `illo-api`.
"""

import logging
import signal
import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from api.opening import OpenApi, open_api, require_usable
from shared.program import begin
from shared.settings import Settings
from shared.stages import Stages

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HUNG_SECONDS = 90  # of the worker's main thread; it beats once a second, whatever requests wait for
DRAIN_SECONDS = 8  # for requests that are being answered at the end; the platform kills at ten
# Google's load balancers keep an idle connection for 600 s: they must be the ones to close it, or
# a request meets a connection that is just being closed.
KEEP_ALIVE_SECONDS = 620
SILENCE_SECONDS = 30  # a caller that is silent in mid-request for longer keeps no thread
CONNECTIONS = 800  # below the 1,024 files that a process may usually open
LONGEST_LINE, MOST_HEADERS, LONGEST_HEADER = 8190, 100, 16_380
MEMORY = Path("/dev/shm")  # noqa: S108 - for the heartbeat's file, which is unlinked at once

log = logging.getLogger(__name__)


def main() -> None:
    """Run the API behind a front end by the environment's settings."""
    stages = Stages()
    stages.done("python")
    _Service(begin(require_usable), stages).run()


def options(settings: Settings) -> dict[str, Any]:
    """Say everything of gunicorn's that is not as it comes; its own environment has no say."""
    return {
        "bind": [f"{_bracketed(settings.host)}:{settings.port}"],
        "workers": 1,
        "worker_class": "api.gunicorn_worker.Worker",
        "logger_class": "api.gunicorn_worker.Events",
        "loglevel": "warning",
        "threads": settings.http_threads,
        "worker_connections": CONNECTIONS,
        "timeout": HUNG_SECONDS,
        "graceful_timeout": DRAIN_SECONDS,
        "keepalive": KEEP_ALIVE_SECONDS,
        "limit_request_line": LONGEST_LINE,
        "limit_request_fields": MOST_HEADERS,
        "limit_request_field_size": LONGEST_HEADER,
        "forwarded_allow_ips": "",  # nothing that a caller says of itself is believed
        # A root that cannot be written to: no control socket under HOME, no heartbeat on a disk.
        "control_socket_disable": True,
        "worker_tmp_dir": str(MEMORY) if MEMORY.is_dir() else None,
    }


class _Service(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, stages: Stages) -> None:
        self._settings, self._stages = settings, stages
        self._beside = ExitStack()
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)
        self.cfg.set("when_ready", _silence_ends)
        self.cfg.set("post_worker_init", self._begin)
        self.cfg.set("worker_exit", self._end)

    def load(self) -> Any:
        # in the worker: no client of Google's and no connection to SQLite survives a fork
        self._api = open_api(self._settings, self._stages)
        return _as_elsewhere(self._api)

    def _begin(self, worker: Any) -> None:
        _end_polls_at_sigterm(self._api)
        self._beside.enter_context(self._api.sweeping())
        self._api.listening(worker.sockets[0].getsockname()[1])

    def _end(self, server: Any, worker: Any) -> None:
        self._beside.close()
        log.info("ended")


def _silence_ends(server: Any) -> None:
    """Let every connection inherit how long a read may wait: gunicorn itself sets no limit."""
    for listener in server.LISTENERS:
        patience = struct.pack("ll", SILENCE_SECONDS, 0)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)


def _end_polls_at_sigterm(api: OpenApi) -> None:
    former = signal.getsignal(signal.SIGTERM)
    assert callable(former), "gunicorn has set its own answer to SIGTERM"

    def stop(number: int, frame: FrameType | None) -> None:
        api.closing.set()
        former(number, frame)

    signal.signal(signal.SIGTERM, stop)


def _as_elsewhere(api: OpenApi) -> Any:
    def answer(call: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        # What the app tells //v1 from /v1 by; its other server makes one slash of them.
        call["REQUEST_URI"] = call["RAW_URI"]
        call["PATH_INFO"] = "/" + call["PATH_INFO"].lstrip("/")
        return api.app(call, start)

    return answer


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
