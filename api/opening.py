"""Open what the API stands on, and run what goes on beside it: the same under either server."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.key_file import require_keys
from shared.errors import IlloError
from shared.requirements import require_api
from shared.settings import Backend, Settings
from shared.stages import Stages
from shared.wiring import Backends, open_backends, served_manifest, sweep_identity

if TYPE_CHECKING:  # begin first tells what is wrong with the settings, Flask comes afterwards
    from flask import Flask

CANNOT_START = 3
SWEEP_ENDS_WITHIN = 2.0  # seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApi:
    """The app that a server answers with; `closing` ends its long polls, `nudge` makes it sweep."""

    app: "Flask"
    settings: Settings
    backends: Backends
    closing: threading.Event
    nudge: threading.Event
    stages: Stages

    def listening(self, port: int) -> None:
        """Say that requests are taken, and how long each stage of the start took."""
        self.stages.done("app")
        here = {"host": self.settings.host, "port": port}
        log.info("listening", extra={**here, "stages": self.stages.seconds()})

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Sweep beside what is served, unless somebody else calls for it: Google's scheduler."""
        if self.settings.backend is Backend.GCP:
            yield
            return
        from api.sweep import run_sweeps

        needs = (self.backends, self.settings, self.closing, self.nudge)
        sweeping = threading.Thread(target=run_sweeps, args=needs, name="sweep", daemon=True)
        sweeping.start()
        yield
        self.nudge.set()  # it ends the sweep's pause
        sweeping.join(SWEEP_ENDS_WITHIN)


def require_usable(settings: Settings) -> None:
    """Raise BadSettings, with everything that is wrong, unless an API can run with these."""
    require_api(settings)
    require_keys(settings)


def open_api(settings: Settings, stages: Stages) -> OpenApi:
    """Open the backends and make the app; says why and exits with status 3 if that fails."""
    closing, nudge = threading.Event(), threading.Event()
    try:
        backends = open_backends(settings)
        stages.done("backends")
        from api.app import create_app

        stages.done("imports")
        manifest = served_manifest(settings)
        app = create_app(
            backends,
            settings,
            manifest.weights,
            usual_pixels=manifest.usual_pixels,
            closing=closing,
            nudge=nudge,
            sweeper=sweep_identity(settings),
        )
    except IlloError as error:
        log.error("cannot start", extra={"reason": str(error)})
        sys.exit(CANNOT_START)
    return OpenApi(
        app=app,
        settings=settings,
        backends=backends,
        closing=closing,
        nudge=nudge,
        stages=stages,
    )
