"""From the start of a process to a model that can draw, with weights that lie behind a link.

The transformer has blocks in their true shapes; what else a pipeline needs is tiny. Beside it, over
the same link: what is usually done, which is to import, to download by one request, and to load the
file. Every way has a process of its own, whose memory and that of its children is looked at often.
"""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fetch import server
from benchmarks.large import write_weights
from benchmarks.report import Figure
from tests.ranged_server import BUSY, FLIPPED, FOLDER, OBJECT, RESET, STALL, Fault, Shape

LINK, PER_CONNECTION, LATENCY = 200e6, 60e6, 0.05
REPEATS = 3
LOOK = 0.02  # seconds between two looks at the memory

_END = """
import resource
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(each.ru_utime + each.ru_stime for each in used))
"""
_ILLO = (
    """
import gc, json, sys, threading, time
from worker.pipeline.weights.fetching import Fetching
with Fetching(sys.argv[1], endpoint=sys.argv[2], through_ring=sys.argv[3] == "ring") as fetching:
    began = time.monotonic()
    import torch
    from worker.pipeline.weights.arrival import Arrival
    arrival = Arrival(fetching)
    from worker.pipeline.weights.assemble import load
    gc.freeze()  # as a worker does
    imported = time.monotonic() - began
    torch.set_num_threads(1)
    model = load(arrival, dtype=torch.bfloat16).transformer
    fetched = fetching.fetched()
    print(json.dumps({"imported": imported, "opened": fetching.opened().seconds,
        "fetched": fetched.seconds, "bytes": fetched.bytes, "again": fetched.retries,
        "parameters": len(list(model.parameters()))}), flush=True)
    sys.stdin.read()
for each in threading.enumerate():
    if each.name == "fetching":
        each.join()  # then the fetch process is counted, too
"""
    + _END
)
# As a client does that knows no ranges: one request, to a file.
_DOWNLOAD = """
import json, sys, time
from pathlib import Path
from worker.pipeline.weights.cloud_source import CloudObject
def download(url, file):
    bucket, name = sys.argv[1].removeprefix("gs://").split("/", 1)
    source = CloudObject(bucket, name, token=lambda: None, endpoint=url)
    connection, left, piece = source.connect(), source.size, memoryview(bytearray(2**20))
    connection.begin(0, source.size)
    while left:
        count = connection.read_into(piece[:left])
        file.write(piece[:count])
        left -= count
"""
_STREAM = (
    _DOWNLOAD
    + """
with open("/dev/null", "wb") as file:
    download(sys.argv[2], file)
print(json.dumps({}), flush=True)
sys.stdin.read()
"""
    + _END
)
_DIFFUSERS = (
    _DOWNLOAD
    + """
import torch
from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig
torch.set_num_threads(1)
began = time.monotonic()
folder = Path(sys.argv[3])
with (folder / "downloaded.gguf").open("wb") as file:
    download(sys.argv[2], file)
downloaded = time.monotonic() - began
model = FluxTransformer2DModel.from_single_file(str(folder / "downloaded.gguf"),
    config=str(folder), subfolder="transformer", local_files_only=True,
    quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
    torch_dtype=torch.bfloat16)
print(json.dumps({"fetched": downloaded,
    "parameters": len(list(model.parameters()))}), flush=True)
sys.stdin.read()
"""
    + _END
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What one start took; `peak` is the host memory of all its processes, shared bytes once."""

    wall: float
    cpu: float
    peak: int
    told: dict[str, Any]


def measure(folder: Path) -> list[Figure]:
    """Start each way over the same link; illo also with faults, and with one wrong bit."""
    weights = folder / "weights"
    size = write_weights(weights)
    ideal = size / LINK
    link = Shape(latency=LATENCY, per_connection=PER_CONNECTION, total=LINK)
    figures = [Figure(what=f"ideal: {size / 1e9:.2f} GB over the link", value=ideal, unit="s")]
    with server(weights, link) as url:
        best = {way: _best(url, way) for way in ("straight", "ring")}
        stream = _start(_STREAM, f"gs://illo-weights/{OBJECT}", url)
        usual = _start(_DIFFUSERS, f"gs://illo-weights/{OBJECT}", url, str(weights))
        (weights / "downloaded.gguf").unlink()
    for way, start in best.items():
        assert start.told["parameters"] == usual.told["parameters"], "the models differ"
        figures += _told(f"illo, {way}", start, ideal, size)
        figures += [
            Figure(what=f"  {stage}", value=start.told[stage], unit="s")
            for stage in ("imported", "opened", "fetched")
        ]
    figures += _told("one stream, nothing loaded", stream, ideal, size)
    figures += _told("one stream to a file, from_single_file", usual, ideal, size)
    factor = usual.wall / best["straight"].wall
    figures.append(Figure(what="the usual way, against illo", value=factor, unit="times"))
    spread = range(size // 10, size, size // 10)
    faults = [Fault(kind, at=at) for kind in (STALL, BUSY, RESET) for at in spread[:3]]
    with server(weights, replace(link, faults=tuple(faults))) as url:
        faulty = _best(url, "straight")
        figures += _told("illo, nine faults", faulty, ideal, size)
        figures.append(Figure(what="  fetched", value=faulty.told["fetched"], unit="s"))
    with server(weights, replace(link, faults=(Fault(FLIPPED, at=size // 2),))) as url:
        figures.append(_refused(url))
    return figures


def _told(what: str, start: Start, ideal: float, size: int) -> list[Figure]:
    beside = (start.peak - size) / 1e6
    figures = [
        Figure(what=what, value=start.wall, unit="s", ratio=start.wall / ideal, against="÷ ideal"),
        Figure(what="  processor, imports and all", value=start.cpu, unit="s"),
    ]
    if beside > 0:  # else there are no tensors
        figures.append(
            Figure(what="  peak host memory beside the tensors", value=beside, unit="MB")
        )
    return figures


def _best(url: str, way: str) -> Start:
    starts = (_start(_ILLO, FOLDER, url, way) for _ in range(REPEATS))
    return min(starts, key=lambda start: start.wall)


def _refused(url: str) -> Figure:
    began = time.perf_counter()
    program = subprocess.run(
        [sys.executable, "-c", _ILLO, FOLDER, url, "straight"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert program.returncode, "a wrong bit passed"
    assert "WeightsDamaged" in program.stderr, program.stderr
    wall = time.perf_counter() - began
    return Figure(what="illo, one wrong bit: refused", value=wall, unit="s")


def _start(code: str, *arguments: str) -> Start:
    """Run a program until it says that it is done, then let it end."""
    began = time.perf_counter()
    program = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            peak[0] = max(peak[0], _memory(program.pid))

    looking = threading.Thread(target=look)
    looking.start()
    assert program.stdout
    line = program.stdout.readline()
    wall = time.perf_counter() - began
    done.set()
    looking.join()
    cpu, _ = program.communicate("")
    assert line, "the program failed"
    return Start(wall=wall, cpu=float(cpu), peak=peak[0], told=json.loads(line))


def _memory(pid: int) -> int:
    """Add up what belongs to a process and its children alone, and what they share, once."""
    own, shared = 0, 0
    for each in (pid, *_children(pid)):
        with suppress(OSError):
            status = Path(f"/proc/{each}/status").read_text().splitlines()
            lines = {line.split(":")[0]: line.split() for line in status}
            if "RssAnon" in lines:  # not of one that has just ended
                own += int(lines["RssAnon"][1]) * 1024
                shared = max(shared, int(lines["RssShmem"][1]) * 1024)
    return own + shared


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(each) for task in tasks for each in (task / "children").read_text().split()]
    return []
