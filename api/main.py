"""The API's process: it serves requests and sweeps until it is told to end.

How long each stage of a start took is in its `listening` event.
"""

import logging

from api.opening import open_api, require_usable
from shared.program import begin
from shared.stages import Stages

log = logging.getLogger(__name__)


def main() -> None:
    """Run the API by the environment's settings."""
    stages = Stages()
    stages.done("python")
    settings = begin(require_usable)
    api = open_api(settings, stages)
    from api.server import serve

    with api.sweeping():
        serve(api.app, settings, api.closing, api.listening)
    log.info("ended")
