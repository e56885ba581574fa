"""The Google backends on emulators: how soon an API has accepted its first job, and each call.

What an emulator answers in is not what Google answers in. The starts, the imports and what our code
adds to a bare call of the SDK are.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import urllib3

from benchmarks.claims import waiting_job
from benchmarks.report import Figure
from deploy.emulators import emulators, missing
from deploy.google import make_bucket, settings_on, with_key
from deploy.ground import free_ports
from shared.gcp.topics import make_subscription, subscription_path, topic_path
from shared.jobs import Terms, claim
from shared.messages import Wake
from shared.settings import Settings, child_environment
from shared.wiring import open_backends

STARTS, CALLS, WARM = 5, 200, 10
PATIENCE = 30.0  # seconds
API = "from api.main import main; main()"
SDKS = ("google.cloud.firestore", "google.pubsub_v1.services.publisher", "google.cloud.storage")


def measure(folder: Path) -> list[Figure]:
    """Start APIs one after the other, then call what they stand on; needs the emulators."""
    if faults := missing():
        raise SystemExit("the emulators are missing:\n" + "\n".join(faults))
    local = Settings(data=folder / "data")
    with _deployment(folder, local) as (settings, key):
        figures = _starts("embedded", local, None)
        figures += _starts("gcp", settings, key)
        figures += [_import(SDKS[:1]), _import(SDKS[1:2]), _import(SDKS[2:]), _import(SDKS)]
        return figures + _calls(settings)


@contextmanager
def _deployment(folder: Path, local: Settings) -> Iterator[tuple[Settings, str]]:
    with ExitStack() as stack:
        hosts = stack.enter_context(emulators(folder / "emulators"))
        os.environ.update(hosts.environment())
        stack.callback(lambda: [os.environ.pop(name) for name in hosts.environment()])
        make_bucket(hosts.storage)
        settings, key = with_key(settings_on(hosts, local, proxy=free_ports(1)[0]))
        assert key
        assert settings.project
        assert settings.topic
        make_subscription(
            hosts.pubsub,
            topic=topic_path(settings.project, settings.topic),
            subscription=subscription_path(settings.project, "nobody"),
        )
        yield settings, key


def _starts(name: str, settings: Settings, key: str | None) -> list[Figure]:
    """Start an API a few times; take the median of each stage, and of the whole to the 202."""
    seen = [_start(settings, key) for _ in range(STARTS)]
    return [
        Figure(what=f"{name}: {stage}", value=median(one[stage] for one in seen) * 1000, unit="ms")
        for stage in seen[0]
    ]


def _start(settings: Settings, key: str | None) -> dict[str, float]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/v1/jobs"
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    began = time.perf_counter()
    program = subprocess.Popen(
        [sys.executable, "-c", API],
        env=child_environment(settings.model_copy(update={"port": port})),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert program.stderr is not None
        told = next(json.loads(line) for line in program.stderr if b'"listening"' in line)
        asked = time.perf_counter()
        answer = urllib3.request("POST", url, json={"prompt": "Mia"}, headers=bearer, timeout=30.0)
        assert answer.status == 202, answer.data
        accepted = time.perf_counter()
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    return {
        **told["stages"],
        "first answer": accepted - asked,
        "from the start to the first 202": accepted - began,
    }


def _import(modules: tuple[str, ...]) -> Figure:
    code = f"import time; t = time.perf_counter(); import {', '.join(modules)}; " + (
        "print(time.perf_counter() - t)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(STARTS)
    ]
    name = "all three SDKs" if len(modules) > 1 else modules[0]
    return Figure(what=f"import {name}", value=median(seconds) * 1000, unit="ms")


def _calls(settings: Settings) -> list[Figure]:
    """Time each call beside a bare call of the SDK that does the least for the same."""
    from shared.gcp.firestore import Firestore

    backends = open_backends(settings)
    assert settings.project
    store = Firestore(settings.project)
    documents = store.client.collection("bare")
    waiting = [waiting_job() for _ in range(CALLS + WARM)]
    claimed = iter([job.id for job in waiting])

    def claim_one() -> None:
        backends.jobs.update(next(claimed), partial(claim, holder="bench", terms=Terms()))

    def bare_update() -> None:
        snapshot = documents.document("one").get()
        unchanged = store.client.write_option(last_update_time=snapshot.update_time)
        documents.document("one").update({"n": 1}, option=unchanged)

    documents.document("one").set({"n": 0, "document": "x" * 1500})
    created = iter(waiting)
    pairs: list[tuple[str, Callable[[], object], str, Callable[[], object]]] = [
        (
            "create a job", lambda: backends.jobs.create([next(created)]),
            "bare create", lambda: documents.add({"document": "x" * 1500}),
        ),
        ("claim a job", claim_one, "bare read and compared update", bare_update),
        (
            "read a job", lambda: backends.jobs.get(waiting[0].id),
            "bare read", lambda: documents.document("one").get(),
        ),
    ]  # fmt: skip
    figures = []
    for what, ours, peer, bare in pairs:
        mine, theirs = _timed(ours), _timed(bare)
        figures += _told(what, mine, against=f"{peer}: {median(theirs) * 1000:.2f} ms",
                         ratio=median(mine) / median(theirs))  # fmt: skip
    return figures + _told(
        "publish a wake-up, confirmed",
        _timed(lambda: backends.publisher.publish(Wake(job=waiting[0].id))),
    )


def _timed(call: Callable[[], object]) -> list[float]:
    for _ in range(WARM):
        call()
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def _told(
    what: str, seconds: list[float], *, against: str = "", ratio: float | None = None
) -> list[Figure]:
    most = quantiles(seconds, n=20)[-1]
    return [
        Figure(what=f"{what}, median", value=median(seconds) * 1000, unit="ms",
               against=against, ratio=ratio),
        Figure(what=f"{what}, 95 %", value=most * 1000, unit="ms"),
    ]  # fmt: skip
