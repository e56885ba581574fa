"""The API's process: it serves requests and sweeps until it is told to end."""

import logging
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

from api.app import create_app
from api.http_parser import Channel
from api.sweep import run_sweeps
from shared.errors import IlloError
from shared.program import begin
from shared.settings import Settings, require_loopback
from shared.wiring import open_backends, served_weights

CANNOT_START = 3
LARGEST_BODY = 128 * 1024 * 1024  # above every route's own limit, which answers with a problem
# Below the 1,024 files that a process may usually open; idle ones do not crowd out the others.
CONNECTIONS = {"connection_limit": 800, "channel_timeout": 30, "cleanup_interval": 5}
DRAIN_SECONDS = 2.0  # for requests that are being answered when the end comes
LOOK_AGAIN = 0.5  # seconds between two looks at whether the end has come

log = logging.getLogger(__name__)


def main() -> None:
    """Run the API by the environment's settings."""
    settings = begin(require_loopback)
    closing, nudge = threading.Event(), threading.Event()
    try:
        backends = open_backends(settings)
        weights = served_weights(settings)
    except IlloError as error:
        log.error("cannot start", extra={"reason": str(error)})
        sys.exit(CANNOT_START)
    app = create_app(backends, settings, weights, closing=closing, nudge=nudge)
    sweeping = threading.Thread(
        target=run_sweeps, args=(backends, settings, closing, nudge), name="sweep", daemon=True
    )
    sweeping.start()
    serve(app, settings, closing)
    nudge.set()  # it ends the sweep's pause
    sweeping.join(DRAIN_SECONDS)
    log.info("ended")


def serve(app: Flask, settings: Settings, closing: threading.Event) -> None:
    """Answer requests until SIGTERM, SIGINT or `closing`, then finish those that have begun."""
    sockets: dict[int, Any] = {}
    server: Any = create_server(
        app,
        map=sockets,
        # one socket: "localhost" may stand for two, which port 0 would give two ports
        host="127.0.0.1" if settings.host == "localhost" else settings.host,
        port=settings.port,
        threads=settings.http_threads,
        **CONNECTIONS,
        max_request_body_size=LARGEST_BODY,
        ident="illo",
    )
    server.channel_class = Channel

    def stop(number: int, frame: FrameType | None) -> None:
        closing.set()
        server.pull_trigger()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    log.info("listening", extra={"host": server.effective_host, "port": server.effective_port})
    while not closing.is_set():
        wasyncore.loop(timeout=LOOK_AGAIN, map=sockets, count=1)
    _finish(server, sockets)


def _finish(server: Any, sockets: dict[int, Any]) -> None:
    server.accepting = False
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline and any(map(_busy, list(sockets.values()))):
        wasyncore.loop(timeout=0.05, map=sockets, count=1)
    server.task_dispatcher.shutdown(timeout=0)
    wasyncore.close_all(sockets)


def _busy(connection: object) -> bool:
    return isinstance(connection, HTTPChannel) and bool(
        connection.requests or connection.total_outbufs_len
    )
