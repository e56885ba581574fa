"""The HTTP server in front of the app: how many connections, how large a body, how it ends."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

from api.http_parser import Channel
from shared.settings import Settings

LARGEST_BODY = 128 * 1024 * 1024  # above every route's own limit, which answers with a problem
# Below the 1,024 files that a process may usually open; idle ones do not crowd out the others.
CONNECTIONS = {"connection_limit": 800, "channel_timeout": 30, "cleanup_interval": 5}
DRAIN_SECONDS = 2.0  # for requests that are being answered when the end comes
LOOK_AGAIN = 0.5  # seconds between two looks at whether the end has come


def serve(
    app: Flask, settings: Settings, closing: threading.Event, listening: Callable[[int], None]
) -> None:
    """Answer requests until SIGTERM, SIGINT or `closing`, then finish those that have begun.

    `listening` is told the port as soon as requests are taken.
    """
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
    listening(server.effective_port)
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
