"""How fast weights come over a link with latency, against what the link could carry.

The server waits before each answer and lets bytes go at a pace, for each connection and for all.
What it really delivers is measured first, by threads that throw away what they receive.
"""

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.report import Figure
from shared.errors import WeightsDamaged
from tests.ranged_server import (
    BUCKET,
    BUSY,
    FLIPPED,
    OBJECT,
    RESET,
    STALL,
    Fault,
    Shape,
    to_argument,
)
from tests.tls import trusting, write_certificate
from worker.pipeline.weights.cloud_source import CloudObject
from worker.pipeline.weights.crc import Octets, extend, to_text
from worker.pipeline.weights.fetch import CONNECTIONS, Fetched, fetch
from worker.pipeline.weights.sources import LocalFile, Source

SIZE = 400 * 10**6
LINK = 400e6  # bytes a second for all; two cores shape more than that only now and then
LATENCY, PER_CONNECTION = 0.05, 60e6
COUNTS = (1, 4, 8, 12, 16, 24, 32)
REPEATS = 3
TENSOR = 16 * 10**6  # of Kontext's transformer in Q8_0, on the average
IDEAL = SIZE / LINK
SHAPED = partial(Shape, latency=LATENCY, per_connection=PER_CONNECTION, total=LINK)
_SPREAD = range(SIZE // 10, SIZE, SIZE // 10)
FAULTS = {
    "3 requests that stall": [Fault(STALL, at=at) for at in _SPREAD[:3]],
    "9 answers 503": [Fault(BUSY, at=at) for at in _SPREAD],
    "9 resets": [Fault(RESET, at=at) for at in _SPREAD],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one fetch took."""

    wall: float
    cpu: float
    beside: int  # bytes of memory at the peak that were not there before
    done: Fetched | None


def measure(folder: Path) -> list[Figure]:
    """Fetch one file with more and more connections, with faults, and from the disk."""
    file = folder / "model.gguf"
    octets = np.random.default_rng(7).integers(0, 256, SIZE, dtype=np.uint8)
    octets.tofile(file)
    crc32c = to_text(extend(0, octets))
    told = f"÷ {SIZE / 1e6:.0f} MB at {LINK / 1e6:.0f} MB/s"
    figures = []
    with server(file, SHAPED()) as url:
        source = _served(url)
        bare = min(_bare(source, 16) for _ in range(REPEATS))
        figures += [
            Figure(what="ideal: the link, no latency", value=IDEAL, unit="s"),
            Figure(what="bare client, 16", value=bare, unit="s", ratio=bare / IDEAL, against=told),
            *_compared("one stream, one request", _bare(source, 1), told),
            *_compared("tensor by tensor, one after the other", _sequential(source), told),
        ]
        for count in COUNTS:
            repeats = REPEATS if count > 1 else 1
            runs = [_fetched(source, octets, crc32c, connections=count) for _ in range(repeats)]
            best = min(runs, key=lambda run: run.wall)
            figures += _told(f"fetch, {count}", best, told)
            if count == CONNECTIONS:
                usual = best.wall
    for name, faults in FAULTS.items():
        with server(file, SHAPED(faults=tuple(faults))) as url:
            run = _fetched(_served(url), octets, crc32c)
        figures += _told(f"fetch, {CONNECTIONS}, {name}", run, "÷ without", usual)
    figures += [_corrupted(file, crc32c), *_unshaped(file, octets, crc32c)]
    return figures


def _compared(what: str, wall: float, told: str) -> list[Figure]:
    return [Figure(what=what, value=wall, unit="s", ratio=wall / IDEAL, against=told)]


def _told(what: str, run: Run, against: str, peer: float = IDEAL) -> list[Figure]:
    figures = [
        Figure(what=what, value=run.wall, unit="s", ratio=run.wall / peer, against=against),
        Figure(what="  processor", value=run.cpu / SIZE * 1e9, unit="s/GB"),
        Figure(what="  memory beside the buffer", value=run.beside / 1e6, unit="MB"),
    ]
    if run.done and (run.done.retries or run.done.hedges):
        again = f"{run.done.hedges} hedges"
        figures.append(
            Figure(what="  asked again", value=run.done.retries, unit="retries", against=again)
        )
    return figures


def _corrupted(file: Path, crc32c: str) -> Figure:
    with server(file, SHAPED(faults=(Fault(FLIPPED, at=SIZE // 3),))) as url:
        source, target = _served(url), np.ones(SIZE, np.uint8)
        began = time.perf_counter()
        try:
            fetch(source, target, crc32c=crc32c)
        except WeightsDamaged:
            wall = time.perf_counter() - began
            return Figure(what="one wrong bit: refused", value=wall, unit="s")
    raise AssertionError("a wrong bit passed")


def _unshaped(file: Path, octets: Octets, crc32c: str) -> list[Figure]:
    with server(file, Shape()) as url:
        source = _served(url)
        bare = min(_bare(source, 2) for _ in range(REPEATS))
        run = min(
            (_fetched(source, octets, crc32c, connections=2) for _ in range(REPEATS)),
            key=lambda run: run.wall,
        )
    figures = [
        Figure(what="bare client, no shape, 2", value=bare, unit="s"),
        *_told("fetch, no shape, 2", run, "÷ bare client", bare),
    ]
    figures += _encrypted(file, octets, crc32c)
    local = LocalFile(file)
    plain = min(_timed(lambda: np.fromfile(file, dtype=np.uint8)) for _ in range(REPEATS))
    figures.append(Figure(what="numpy reads the file, cached", value=plain, unit="s"))
    for count in (1, 4):
        run = min(
            (_fetched(local, octets, crc32c, connections=count) for _ in range(REPEATS)),
            key=lambda run: run.wall,
        )
        figures += _told(f"fetch of the file, cached, {count}", run, "÷ numpy", plain)
    local.close()
    return figures


def _encrypted(file: Path, octets: Octets, crc32c: str) -> list[Figure]:
    """Fetch over TLS, as from Cloud Storage; here both ends encrypt on the same cores."""
    certificate = write_certificate(file.with_suffix(".pem"))
    with server(file, SHAPED(), certificate) as url:
        source = _served(url, trusting(certificate))
        bare = min(_bare(source, 16) for _ in range(REPEATS))
        run = min(
            (_fetched(source, octets, crc32c) for _ in range(REPEATS)), key=lambda run: run.wall
        )
    figures = [Figure(what="bare client over TLS, 16", value=bare, unit="s")]
    return figures + _told(f"fetch over TLS, {CONNECTIONS}", run, "÷ bare client", bare)


def _fetched(source: Source, octets: Octets, crc32c: str, *, connections: int = CONNECTIONS) -> Run:
    target = np.ones(SIZE, np.uint8)  # written to, or its pages would count as new
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, cpu, began = _memory("VmRSS"), time.process_time(), time.perf_counter()
    done = fetch(source, target, crc32c=crc32c, connections=connections)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    beside = _memory("VmHWM") - before
    assert np.array_equal(target, octets), "the bytes are others"
    return Run(wall=wall, cpu=cpu, beside=beside, done=done)


def _bare(source: Source, connections: int) -> float:
    """Receive everything and keep nothing, with one request per connection."""

    def receive(number: int) -> None:
        place = bytearray(512 * 1024)
        connection = source.connect()
        start, stop = (SIZE * each // connections for each in (number, number + 1))
        connection.begin(start, stop)
        while start < stop:
            start += connection.read_into(memoryview(place)[: stop - start])
        connection.close()

    with ThreadPoolExecutor(connections) as pool:
        return _timed(lambda: list(pool.map(receive, range(connections))))


def _sequential(source: Source) -> float:
    """Ask for one tensor after the other, as a loader does that reads a mounted bucket."""

    def read() -> None:
        connection = source.connect()
        for start in range(0, SIZE, TENSOR):
            tensor = np.empty(min(TENSOR, SIZE - start), np.uint8)
            connection.begin(start, start + tensor.size)
            filled = 0
            while filled < tensor.size:
                filled += connection.read_into(tensor[filled:].data)
        connection.close()

    return _timed(read)


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def _served(url: str, trust: ssl.SSLContext | None = None) -> CloudObject:
    return CloudObject(BUCKET, OBJECT, token=lambda: None, endpoint=url, trust=trust)


@contextmanager
def server(file: Path, shape: Shape, certificate: Path | None = None) -> Iterator[str]:
    """Serve a file, or a folder's, in a process of its own; gives the address."""
    told = [str(file), to_argument(shape), *([str(certificate)] if certificate else [])]
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.ranged_server", *told],
        stdout=subprocess.PIPE,
    )
    try:
        assert program.stdout
        yield json.loads(program.stdout.readline())["url"]
    finally:
        program.kill()
        program.wait()
