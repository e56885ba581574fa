"""The API's process: it serves requests and sweeps until it is told to end.

How long each stage of a start took is in its `listening` event.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.key_file import require_keys
from shared.errors import IlloError
from shared.program import begin
from shared.requirements import require_api
from shared.settings import Backend, Settings
from shared.stages import Stages
from shared.wiring import Backends, open_backends, served_weights, sweep_identity

CANNOT_START = 3
SWEEP_ENDS_WITHIN = 2.0  # seconds

log = logging.getLogger(__name__)


def main() -> None:
    """Run the API by the environment's settings."""
    stages = Stages()
    stages.done("python")
    settings = begin(_require_usable)
    closing, nudge = threading.Event(), threading.Event()
    try:
        backends = open_backends(settings)
        stages.done("backends")
        from api.app import create_app
        from api.server import serve

        stages.done("imports")
        app = create_app(
            backends,
            settings,
            served_weights(settings),
            closing=closing,
            nudge=nudge,
            sweeper=sweep_identity(settings),
        )
    except IlloError as error:
        log.error("cannot start", extra={"reason": str(error)})
        sys.exit(CANNOT_START)

    def listening(port: int) -> None:
        stages.done("app")
        here = {"host": settings.host, "port": port}
        log.info("listening", extra={**here, "stages": stages.seconds()})

    with _sweeping(backends, settings, closing, nudge):
        serve(app, settings, closing, listening)
    log.info("ended")


@contextmanager
def _sweeping(
    backends: Backends, settings: Settings, closing: threading.Event, nudge: threading.Event
) -> Iterator[None]:
    """Sweep beside what is served, unless somebody else calls for it: Google's scheduler."""
    if settings.backend is Backend.GCP:
        yield
        return
    from api.sweep import run_sweeps

    sweeping = threading.Thread(
        target=run_sweeps, args=(backends, settings, closing, nudge), name="sweep", daemon=True
    )
    sweeping.start()
    yield
    nudge.set()  # it ends the sweep's pause
    sweeping.join(SWEEP_ENDS_WITHIN)


def _require_usable(settings: Settings) -> None:
    require_api(settings)
    require_keys(settings)
