"""The worker's HTTP skin: the push endpoint, health and counters."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry, Counter, generate_latest

from shared.errors import StoreUnavailable, Unauthenticated, WrongIdentity
from shared.identity import PushIdentity, verify

LARGEST_PUSH = 65_536  # bytes; a wake-up is about 300

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Ask whether the process is well, and whether it can draw; None or the reason why not."""

    ill: Callable[[], str | None]
    unready: Callable[[], str | None]


def create_app(
    *,
    identity: PushIdentity,
    health: Health,
    answer: Callable[[bytes], int],
    registry: CollectorRegistry,
) -> Flask:
    """Make the WSGI application; `answer` gets the body of every push whose sender is trusted."""
    app = Flask("worker")
    pushes = Counter("illo_pushes", "Pushes by answer", ["status"], registry=registry)
    verifier = "iam" if identity.signatures_removed else "worker"
    log.info("pushes are verified", extra={"signatures": verifier})

    def answered(status: int, text: str = "") -> Response:
        pushes.labels(str(status)).inc()
        return Response(text, status=status, content_type="text/plain; charset=utf-8")

    @app.post("/push")
    def push() -> Response:
        try:
            verify(
                request.headers.get("Authorization"),
                identity,
                serverless=request.headers.get("X-Serverless-Authorization"),
            )
        except Unauthenticated as error:
            return answered(401, str(error))
        except WrongIdentity as error:
            return answered(403, str(error))
        except StoreUnavailable as error:  # no keys to judge by: nothing is recorded, so come again
            log.error("the keys are away", extra={"reason": str(error)})
            return answered(503)
        # More than a message of ours can be is cut, so that it is found unreadable, not sent again.
        return answered(answer(request.stream.read(LARGEST_PUSH)))

    @app.get("/healthz")
    def healthz() -> tuple[str, int]:
        reason = health.ill()
        return (reason, 503) if reason else ("well", 200)

    @app.get("/readyz")
    def readyz() -> tuple[str, int]:
        reason = health.unready()
        return (reason, 503) if reason else ("ready", 200)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type="text/plain; version=0.0.4")

    return app
