"""What must be so before `illo up` starts its programs: weights, address, port and push key."""

import socket
import time
from collections.abc import Callable

from shared.errors import BadSettings, WeightsError
from shared.requirements import require_loopback
from shared.scenes import Weights
from shared.settings import Settings

PORT_FREE_WITHIN = 6.0  # seconds; another program may be ending
LOOK_EVERY = 0.05


def free_ports(count: int) -> list[int]:
    """Find ports of this machine that nobody listens on, all different."""
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in opened]
    for one in opened:
        one.close()
    return ports


def require_usable(settings: Settings) -> Weights:
    """Say which weights will be drawn with.

    Raises BadSettings if nothing could be drawn with these settings, or others could reach it.
    """
    from shared.wiring import served_manifest

    require_loopback(settings)
    try:
        return served_manifest(settings).weights
    except WeightsError as error:
        raise BadSettings(f"ILLO_WEIGHTS: {error}") from None


def api_port(settings: Settings, say: Callable[[str], None]) -> int:
    """Choose the API's port; raises BadSettings if the wished one stays taken."""
    if settings.port == 0:
        return free_ports(1)[0]
    patience, told = time.monotonic() + PORT_FREE_WITHIN, False
    while fault := _why_taken(settings):
        if time.monotonic() > patience:
            raise BadSettings(
                f"PORT: {settings.port} cannot be listened on ({fault}); "
                "choose another with --port, or --port 0 for any free one"
            )
        if not told:
            told = True
            say(f"port {settings.port}: {fault}; waiting {PORT_FREE_WITHIN:g} s for it to be free")
        time.sleep(LOOK_EVERY)
    return settings.port


def make_push_key(settings: Settings) -> None:
    """Make the key that the queue signs its pushes with, unless it is there."""
    from shared.embedded.push_keys import make_push_key

    make_push_key(settings.data / "push-key.pem")


def _why_taken(settings: Settings) -> str | None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
