"""`illo up`: the API, the workers and the queue as separate programs on one machine.

This is where they are chosen, started in order, kept alive, and drained in order.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.children import Child, Nursery, Role
from deploy.client import is_healthy
from deploy.folder import occupied, write_run_file
from deploy.ground import api_port, free_ports, make_push_key, make_tiny_weights, require_usable
from deploy.lifeline import Lifeline
from deploy.program_logs import last_complaint, rotate_logs
from shared.errors import ServiceUnreachable
from shared.settings import Settings
from shared.signals import EndWishes

LOOK_EVERY = 0.05
GIVEN_UP_AFTER = 4  # deaths in a row of an API that has never answered
DRAIN_SECONDS = {"worker": 10.0, "queue": 5.0, "api": 5.0}  # in this order; a worker takes eight

_API = "from api.main import main; main()"
_WORKER = "from worker.main import main; main()"
_QUEUE = "from deploy.queue import main; main()"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What `illo up` started: where it answers, and the present ids of its programs."""

    url: str
    api: int
    workers: Sequence[int]
    queue: int

    def document(self) -> dict[str, Any]:
        """Write it as run.json has it; there are no keys yet."""
        pids = {"api": self.api, "worker": list(self.workers), "queue": self.queue}
        return {"url": self.url, "key": None, "processes": pids}


def run_here(
    settings: Settings,
    *,
    announce: Callable[[Running], None],
    draining: Callable[[], None],
    say: Say,
    verbose: bool = False,
) -> bool:
    """Run everything until SIGINT or SIGTERM, then drain; tell whether draining was let finish.

    Call it from the main thread.
    `announce` is called once, when the API answers, and `draining` when the end is wished. Raises
    BadSettings before anything is made if nothing could be drawn, DataInUse, WeightsMissing if the
    tiny ones cannot be made, or ServiceUnreachable if the API does not come up.
    """
    require_usable(settings)
    settings = settings.model_copy(update={"data": settings.data.resolve()})
    logs = settings.data / "logs"
    with EndWishes() as wishes, occupied(settings.data) as lock, closing(Lifeline()) as lifeline:
        settings = settings.model_copy(update={"port": api_port(settings, say)})
        rotate_logs(logs)
        nursery = Nursery(lifeline=lifeline, lock=lock, logs=logs, verbose=verbose)
        make_push_key(settings)
        make_tiny_weights(settings, nursery, wishes, say)
        with _children(settings, nursery, wishes) as children:
            _keep_alive(settings, children, wishes, announce=announce, say=say)
            draining()
        return not wishes.impatient


def roles(settings: Settings) -> list[Role]:
    """Say which programs to start: the API, the workers, and the queue that pushes to them."""
    ports = free_ports(settings.workers)
    return [
        Role(kind="api", name="api", code=_API, settings=settings),
        *(
            Role(
                kind="worker",
                name=f"worker-{number}",
                code=_WORKER,
                settings=settings.model_copy(update={"port": port, "host": "127.0.0.1"}),
            )
            for number, port in enumerate(ports, start=1)
        ),
        Role(
            kind="queue",
            name="queue",
            code=_QUEUE,
            settings=settings,
            arguments=[f"http://127.0.0.1:{port}/push" for port in ports],
        ),
    ]


def url_of(settings: Settings) -> str:
    """Say where the API answers."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _keep_alive(
    settings: Settings,
    children: Sequence[Child],
    wishes: EndWishes,
    *,
    announce: Callable[[Running], None],
    say: Say,
) -> None:
    url, announced = url_of(settings), False
    write_run_file(settings.data, _running(url, children).document())
    while not wishes.heard:
        now = time.monotonic()
        started = [child for child in children if child.tend(now, say)]
        if started:
            write_run_file(settings.data, _running(url, children).document())
        if not announced and is_healthy(url):
            announced = True
            announce(_running(url, children))
        if not announced:
            _refuse_dead_start(children[0], settings.data / "logs" / "api.log")
        time.sleep(LOOK_EVERY)


@contextmanager
def _children(settings: Settings, nursery: Nursery, wishes: EndWishes) -> Iterator[list[Child]]:
    children: list[Child] = []
    try:
        for role in roles(settings):
            children.append(Child(role, nursery, now=time.monotonic()))
        yield children
    finally:
        _drain(children, wishes)  # also if one of them could not be started


def _drain(children: Sequence[Child], wishes: EndWishes) -> None:
    for kind, seconds in DRAIN_SECONDS.items():
        ours = [child for child in children if child.role.kind == kind]
        for child in ours:
            child.signal(signal.SIGTERM)
        latest = time.monotonic() + seconds
        while any(child.alive for child in ours) and time.monotonic() < latest:
            if wishes.impatient:
                break
            time.sleep(LOOK_EVERY)
        for child in ours:
            child.signal(signal.SIGKILL)
            child.wait(seconds)


def _running(url: str, children: Sequence[Child]) -> Running:
    def pids(kind: str) -> list[int]:
        return [child.pid for child in children if child.role.kind == kind]

    return Running(url=url, api=pids("api")[0], workers=pids("worker"), queue=pids("queue")[0])


def _refuse_dead_start(api: Child, log: Path) -> None:
    if api.deaths >= GIVEN_UP_AFTER:
        why = last_complaint(log)
        raise ServiceUnreachable(f"the API does not start; see {log}\n{why}".rstrip())
