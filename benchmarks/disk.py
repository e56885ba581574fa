"""How fast the transformer comes from a local disk, against a raw read and against diffusers.

The page cache forgets the file before every load, and every load has a process of its own, so that
its peak of memory is its own. Hashes over all tensors of the first loads must agree.
"""

import ctypes
import hashlib
import mmap
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.large import MODEL, write_weights
from benchmarks.report import Figure
from shared.manifest import Role, read_manifest
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.fetch import fetch
from worker.pipeline.weights.fetching import Fetching
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.sources import LocalFile

REPEATS = 5  # a machine that shares its memory with others is slow to give gigabytes of it
READERS = 4
PART_BYTES = 16 * 2**20
TRIES_TO_FORGET = 50

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one load took; there is a hash of the first of each way."""

    wall: float
    cpu: float
    peak: int  # bytes of memory that were not there before
    hash: str | None


def measure(folder: Path) -> list[Figure]:
    """Write the file, and load it in each way in turn, several times."""
    size = write_weights(folder / "weights")
    assert size >= 2 * 10**9
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for repeat in range(REPEATS):
        # another one begins each time, so that none always follows the same one
        for way in [*WAYS, *WAYS][repeat % len(WAYS) :][: len(WAYS)]:
            _forget(folder / "weights" / MODEL)
            hashed = repeat == 0 and way != RAW
            runs[way].append(_alone(way, folder / "weights", hashed=hashed))
    hashes = [run.hash for of_a_way in runs.values() for run in of_a_way if run.hash]
    assert len(hashes) == len(WAYS) - 1, "not every way told a hash"
    assert len(set(hashes)) == 1, f"the ways differ in what they load: {hashes}"
    figures = [Figure(what="the file", value=size / 1e9, unit="GB")]
    for way, done in runs.items():
        figures += _told(way, done, runs[RAW], size)
    return figures


def _told(way: str, runs: list[Run], raw: list[Run], size: int) -> list[Figure]:
    walls, beside = [[run.wall for run in each] for each in (runs, raw)]
    peak = max(run.peak for run in runs)
    cpu = median(run.cpu for run in runs) / size * 1e9
    return [
        Figure(
            what=f"{way}, best of {len(runs)}", value=min(walls), unit="s",
            ratio=min(walls) / min(beside), against="÷ best raw read",
        ),
        Figure(
            what="  median", value=median(walls), unit="s",
            ratio=median(walls) / median(beside), against="÷ median raw read",
        ),
        Figure(what="  processor", value=cpu, unit="s/GB"),
        Figure(
            what="  peak memory", value=peak / 1e6, unit="MB",
            ratio=peak / size, against="÷ the file",
        ),
    ]  # fmt: skip


def _read_raw(folder: Path) -> Octets:
    """Fill one buffer and do nothing else: what the disk and the machine can give."""
    file = os.open(folder / MODEL, os.O_RDONLY)
    size = os.fstat(file).st_size
    buffer = np.empty(size, dtype=np.uint8)

    def read(start: int) -> None:
        stop = min(start + PART_BYTES, size)
        while start < stop:
            start += os.preadv(file, [buffer[start:stop].data], start)

    with ThreadPoolExecutor(READERS) as readers:
        list(readers.map(read, range(0, size, PART_BYTES)))
    os.close(file)
    return buffer


def _start_illo(folder: Path) -> Any:
    """Do as a worker does: a second process fetches, this one judges and builds all models."""
    import torch

    from worker.pipeline.weights.arrival import Arrival
    from worker.pipeline.weights.assemble import load

    with Fetching(str(folder)) as fetching:
        return load(Arrival(fetching), dtype=torch.bfloat16).transformer


def _load_in_one_process(folder: Path) -> Any:
    """Fetch the transformer alone into a buffer of this process, and build it there."""
    import torch

    from worker.pipeline.transformer import place_transformer

    [listed] = [file for file in read_manifest(folder).files if file.path == str(MODEL)]
    header, source = read_header(folder / MODEL), LocalFile(folder / MODEL)
    buffer = np.empty(source.size, dtype=np.uint8)
    fetch(source, buffer, crc32c=listed.crc32c, connections=READERS)
    source.close()
    arena = torch.from_numpy(buffer)
    tensors = {
        name: arena[tensor.offset : tensor.offset + tensor.bytes]
        for name, tensor in header.tensors.items()
    }
    return place_transformer(folder, header, tensors, dtype=torch.bfloat16)


def _load_with_diffusers(folder: Path) -> Any:
    import torch
    from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig

    return FluxTransformer2DModel.from_single_file(
        str(folder / MODEL),
        config=str(folder),
        subfolder=Role.TRANSFORMER.value,
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16),
        torch_dtype=torch.bfloat16,
        local_files_only=True,
    )


RAW = f"raw read, {READERS} threads"
WAYS: dict[str, Callable[[Path], Any]] = {
    RAW: _read_raw,
    "illo, as a worker starts": _start_illo,
    "illo, in one process": _load_in_one_process,
    "diffusers' from_single_file": _load_with_diffusers,
}


def _alone(way: str, folder: Path, *, hashed: bool) -> Run:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(_run, way, folder, hashed).result()


def _run(way: str, folder: Path, hashed: bool) -> Run:
    if way != RAW:
        from transformers.utils import logging

        logging.set_verbosity_error()

        import torch

        import worker.pipeline.weights.assemble  # noqa: F401  # imports are not what is measured

        torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, cpu, began = _memory("VmRSS"), _processor(), time.perf_counter()
    loaded = WAYS[way](folder)
    wall, cpu = time.perf_counter() - began, _processor() - cpu
    peak = _memory("VmHWM") - before + _memory_of_children()
    return Run(wall=wall, cpu=cpu, peak=peak, hash=_hash(loaded) if hashed else None)


def _hash(model: Any) -> str:
    import torch

    digest = hashlib.blake2b()
    for name, tensor in sorted(model.named_parameters()):
        told = (name, str(tensor.dtype), tuple(tensor.shape), str(getattr(tensor, "quant_type", 0)))
        digest.update(repr(told).encode())
        digest.update(tensor.detach().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


def _memory_of_children() -> int:
    """Tell the largest child's peak; what it shares with this process counts here."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(0, peak - _memory("RssShmem"))


def _forget(path: Path) -> None:
    """Take a file out of the page cache; what lies below a virtual disk is out of reach.

    One advice may leave pages that another processor still holds, so it is given until
    none is left.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        for _ in range(TRIES_TO_FORGET):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            left = _cached_pages(file.fileno())
            if not left:
                return
            time.sleep(0.1)
    raise AssertionError(f"{path}: {left} of its pages stay in the page cache")


def _cached_pages(file: int) -> int:
    """Count the pages of a file that are in memory, without reading any (mincore(2))."""
    size = os.fstat(file).st_size
    states = bytearray(-(-size // mmap.PAGESIZE))
    with mmap.mmap(file, size, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        told = (ctypes.c_char * len(states)).from_buffer(states)
        failed = _LIBC.mincore(ctypes.byref(first), ctypes.c_size_t(size), told)
        del first  # a mapping that is still looked at cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return sum(state & 1 for state in states)
