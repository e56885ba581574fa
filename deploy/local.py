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

from api.key_file import require_keys
from deploy.children import Child, Nursery, Role
from deploy.client import is_healthy
from deploy.folder import occupied, write_run_file
from deploy.footing import Footing
from deploy.ground import api_port, free_ports, make_push_key, require_usable
from deploy.lifeline import Lifeline
from deploy.program_logs import last_complaint, rotate_logs
from shared.errors import ServiceUnreachable
from shared.settings import Settings
from shared.signals import EndWishes

LOOK_EVERY = 0.05
GIVEN_UP_AFTER = 4  # deaths in a row of an API that has never answered
DRAIN_SECONDS = {"worker": 10.0, "queue": 5.0, "api": 5.0}  # in this order; a worker takes eight
HERE_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens everywhere

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
    metrics: Sequence[str] = ()  # where each worker tells its figures, on this machine alone
    key: str | None = None  # one that was made for this run; of others only hashes are known

    def document(self) -> dict[str, Any]:
        """Write it as run.json has it."""
        pids = {"api": self.api, "worker": list(self.workers), "queue": self.queue}
        return {
            "url": self.url,
            "key": self.key,
            "processes": pids,
            "metrics": list(self.metrics),
        }


def run_here(
    settings: Settings,
    *,
    announce: Callable[[Running], None],
    draining: Callable[[], None],
    say: Say,
    verbose: bool = False,
    mishaps: Sequence[str] | None = None,
) -> bool:
    """Run everything until SIGINT or SIGTERM, then drain; tell whether draining was let finish.

    Call it from the main thread. With `mishaps`, which may be none, it stands on emulators.
    `announce` is called once, when the API answers, and `draining` when the end is wished. Raises
    BadSettings before anything is made if nothing could be drawn or the keys cannot be read,
    DataInUse, or ServiceUnreachable if the API or an emulator does not come up.
    """
    require_usable(settings)
    require_keys(settings)
    settings = settings.model_copy(update={"data": settings.data.resolve()})
    logs = settings.data / "logs"
    with EndWishes() as wishes, occupied(settings.data) as lock, closing(Lifeline()) as lifeline:
        settings = settings.model_copy(update={"port": api_port(settings, say)})
        rotate_logs(logs)
        nursery = Nursery(lifeline=lifeline, lock=lock, logs=logs, verbose=verbose)
        with (
            _footing(settings, mishaps, say) as footing,
            _children(footing, nursery, wishes) as all,
        ):
            _keep_alive(footing, all, wishes, announce=announce, say=say)
            draining()
        return not wishes.impatient


def roles(footing: Footing) -> list[Role]:
    """Say which programs to start: the API, the workers, and the queue that pushes to them."""
    settings = footing.settings
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
        footing.queue([f"http://127.0.0.1:{port}/push" for port in ports], url_of(settings)),
    ]


@contextmanager
def _footing(settings: Settings, mishaps: Sequence[str] | None, say: Say) -> Iterator[Footing]:
    if mishaps is not None:
        from deploy.google import emulated

        say("starting Google's emulators; they keep nothing when this ends")
        with emulated(settings, mishaps) as footing:
            yield footing
        return
    make_push_key(settings)
    yield embedded(settings)


def embedded(settings: Settings) -> Footing:
    """Stand on this machine alone: SQLite, files and a queue of our own."""

    def queue(workers: Sequence[str], api: str) -> Role:
        return Role(kind="queue", name="queue", code=_QUEUE, settings=settings, arguments=workers)

    return Footing(settings=settings, queue=queue)


def url_of(settings: Settings) -> str:
    """Say where the API answers on this machine."""
    host = HERE_OF_ALL.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}"


def _keep_alive(
    footing: Footing,
    children: Sequence[Child],
    wishes: EndWishes,
    *,
    announce: Callable[[Running], None],
    say: Say,
) -> None:
    settings, announced = footing.settings, False
    url = url_of(settings)
    write_run_file(settings.data, _running(footing, children).document())
    while not wishes.heard:
        now = time.monotonic()
        started = [child for child in children if child.tend(now, say)]
        if started:
            write_run_file(settings.data, _running(footing, children).document())
        if not announced and is_healthy(url):
            announced = True
            announce(_running(footing, children))
        if not announced:
            _refuse_dead_start(children[0], settings.data / "logs" / "api.log")
        time.sleep(LOOK_EVERY)


@contextmanager
def _children(footing: Footing, nursery: Nursery, wishes: EndWishes) -> Iterator[list[Child]]:
    children: list[Child] = []
    try:
        for role in roles(footing):
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


def _running(footing: Footing, children: Sequence[Child]) -> Running:
    def pids(kind: str) -> list[int]:
        return [child.pid for child in children if child.role.kind == kind]

    return Running(
        url=url_of(footing.settings),
        key=footing.key,
        api=pids("api")[0],
        workers=pids("worker"),
        queue=pids("queue")[0],
        metrics=[
            f"http://127.0.0.1:{child.role.settings.port}/metrics"
            for child in children
            if child.role.kind == "worker"
        ],
    )


def _refuse_dead_start(api: Child, log: Path) -> None:
    if api.deaths >= GIVEN_UP_AFTER:
        why = last_complaint(log)
        raise ServiceUnreachable(f"the API does not start; see {log}\n{why}".rstrip())
