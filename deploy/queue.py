"""The queue's program in an `illo up`: it pushes wake-ups to workers until it is told to end."""

import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from shared.clock import SystemClock
from shared.embedded.delivery import QueueFile
from shared.embedded.dispatcher import Dispatcher
from shared.embedded.push_keys import TokenSigner, make_push_key
from shared.program import begin
from shared.settings import Settings
from shared.signals import EndWishes
from shared.wiring import LOCAL_AUDIENCE, LOCAL_EMAIL, LOCAL_ISSUER, LOCAL_KEY_ID

PUSHES_PER_WORKER = 2  # one is held open while its job is drawn, another may bring the next
GRACE = timedelta(seconds=2)  # the workers have ended before the queue is told to
LOOK_EVERY = 0.1
DIED = 1


def main() -> None:
    """Push to the endpoints named as arguments, by the environment's settings."""
    settings = begin()
    with EndWishes() as wishes:
        sys.exit(push_until_told(make_dispatcher(settings, sys.argv[1:]), wishes))


def make_dispatcher(settings: Settings, endpoints: Sequence[str]) -> Dispatcher:
    """Open the queue of a data folder and the key that its pushes are signed with."""
    clock = SystemClock()
    signer = TokenSigner(
        make_push_key(settings.data / "push-key.pem"),
        key_id=LOCAL_KEY_ID,
        issuer=LOCAL_ISSUER,
        audience=LOCAL_AUDIENCE,
        email=LOCAL_EMAIL,
        clock=clock,
    )
    return Dispatcher(
        QueueFile(settings.data / "queue.sqlite", clock=clock),
        endpoints,
        signer,
        ack_deadline=timedelta(seconds=settings.ack_deadline_seconds),
        window=PUSHES_PER_WORKER * len(endpoints),
        grace=GRACE,
    )


def push_until_told(dispatcher: Dispatcher, wishes: EndWishes) -> int:
    """Run the dispatcher beside a thread that hears signals; return the exit status."""
    # An Event must not be set in a signal's own code: the thread it interrupts may hold its lock.
    stop = threading.Event()
    pushing = threading.Thread(target=dispatcher.run, args=(stop,), name="dispatcher", daemon=True)
    pushing.start()
    while pushing.is_alive() and not wishes.heard:
        time.sleep(LOOK_EVERY)
    stop.set()
    pushing.join(2 * GRACE.total_seconds())
    return 0 if wishes.heard else DIED
