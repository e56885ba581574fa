"""The push proxy: it stands between Pub/Sub's emulator and the workers, and does Google's part.

It adds the identity token, serves the certificates to it, and calls for the sweep.
docs/emulators.md tells why each is needed.
"""

import logging
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from deploy.push_fates import Fates, Odds
from deploy.push_identity import LocalIssuer
from deploy.push_intake import PUSH_PATH, serving
from deploy.push_relay import PushRelay
from deploy.sweep_calls import call_for_sweeps
from shared.clock import SystemClock
from shared.errors import BadSettings, ServiceUnreachable
from shared.gcp.topics import make_subscription, push_to, subscription_path, topic_path
from shared.program import WRONG_USE, begin
from shared.requirements import needed
from shared.settings import Backend, Settings, variable
from shared.signals import EndWishes

SUBSCRIPTION = "illo-wake"
KEY_FILE = "push-key.pem"  # in the data folder
LOOK_EVERY = 0.1

log = logging.getLogger(__name__)


def main() -> None:
    """Push to the workers' URLs, given as arguments beside the options of `arguments`."""
    given = arguments(sys.argv[1:])
    settings = begin(require_emulator)
    with EndWishes() as wishes:
        try:
            _run(settings, given, wishes)
        except (ServiceUnreachable, OSError) as error:
            log.error("push_proxy_failed", extra={"reason": str(error)})
            sys.exit(1)


def arguments(given: Sequence[str]) -> Namespace:
    """Read the arguments; exits with status 2 and what is wrong with them."""
    parser = ArgumentParser(prog="push proxy", allow_abbrev=False)
    parser.add_argument("endpoints", nargs="+", metavar="URL", help="where a worker takes pushes")
    parser.add_argument("--sweep", metavar="URL", help="where the API takes calls for the sweep")
    parser.add_argument("--lose", type=float, default=0.0, metavar="P", help="acknowledge only")
    parser.add_argument("--double", type=float, default=0.0, metavar="P", help="push twice at once")
    parser.add_argument("--delay", type=float, default=0.0, metavar="P", help="push later")
    parser.add_argument("--longest-delay", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0, help="the same, and chance is the same")
    read = parser.parse_args(given)
    try:
        read.odds = Odds(
            lost=read.lose,
            doubled=read.double,
            delayed=read.delay,
            longest_delay=read.longest_delay,
        )
    except ValueError as error:
        parser.exit(WRONG_USE, f"push proxy: {error}\n")
    return read


def require_emulator(settings: Settings) -> None:
    """Raise BadSettings unless there is an emulator to push from, and all that tokens need."""
    needed = (
        "project", "topic", "pubsub_emulator",
        "push_audience", "push_email", "sweep_audience", "sweep_email",
    )  # fmt: skip
    faults = [f"{variable(name)}: missing" for name in needed if getattr(settings, name) is None]
    if settings.backend is not Backend.GCP:
        faults.insert(0, f"{variable('backend')}: must be gcp")
    if faults:
        faults.append("the push proxy does for Pub/Sub's emulator what Google does by itself")
        raise BadSettings("\n".join(faults))


def _run(settings: Settings, given: Namespace, wishes: EndWishes) -> None:
    """Serve at the settings' port, be pushed to, and call for sweeps, until an end is wished."""
    issuer = LocalIssuer(settings.data / KEY_FILE, clock=SystemClock())
    relay = PushRelay(
        given.endpoints,
        issuer.signer(
            audience=needed(settings, "push_audience"), email=needed(settings, "push_email")
        ),
        ack_deadline=timedelta(seconds=settings.ack_deadline_seconds),
        fate=Fates(given.odds, seed=given.seed).draw,
    )
    with (
        serving(relay, issuer.certificates(), port=settings.port) as url,
        _pushed_to(settings, url + PUSH_PATH),
        _sweeping(settings, given.sweep, issuer),
    ):
        log.info("push_proxy_started", extra={"workers": len(given.endpoints)})
        while not wishes.heard:
            time.sleep(LOOK_EVERY)


@contextmanager
def _pushed_to(settings: Settings, url: str) -> Iterator[None]:
    """Let the emulator push here while the block lasts; topic and subscription are made for it."""
    emulator, project = needed(settings, "pubsub_emulator"), needed(settings, "project")
    topic = topic_path(project, needed(settings, "topic"))
    subscription = subscription_path(project, SUBSCRIPTION)
    make_subscription(emulator, topic=topic, subscription=subscription)
    push_to(emulator, subscription=subscription, url=url)
    try:
        yield
    finally:
        with suppress(ServiceUnreachable):  # it may have been ended first
            push_to(emulator, subscription=subscription, url=None)


@contextmanager
def _sweeping(settings: Settings, url: str | None, issuer: LocalIssuer) -> Iterator[None]:
    if url is None:
        yield
        return
    signer = issuer.signer(
        audience=needed(settings, "sweep_audience"), email=needed(settings, "sweep_email")
    )
    stop = threading.Event()
    threading.Thread(
        target=call_for_sweeps,
        args=(url, signer),
        kwargs={"every": settings.sweep_seconds, "stop": stop},
        name="sweeps",
        daemon=True,
    ).start()
    try:
        yield
    finally:
        stop.set()
