"""Read tensors of a GGUF file into memory as they are, with several reads at once."""

import math
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.errors import WeightsDamaged
from worker.pipeline.weights.gguf_header import GgufHeader

Bytes = npt.NDArray[np.int8]

READERS = 4  # one reader does not fill a fast disk, more than four gained nothing
PART_BYTES = 16 * 2**20
ALIGNMENT = 64  # as torch aligns its own tensors, so that kernels see no difference


def read_tensors(header: GgufHeader, names: Iterable[str]) -> dict[str, Bytes]:
    """Read the bytes of these tensors into one new buffer, of which each result is a view.

    Raises WeightsDamaged if the file has become shorter since its header was read.
    """
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name in names:
        places[name] = (end, end + header.tensors[name].bytes)
        end = math.ceil(places[name][1] / ALIGNMENT) * ALIGNMENT
    buffer = _page_aligned(end)
    tensors = {name: buffer[start:stop] for name, (start, stop) in places.items()}
    parts = [
        (header.tensors[name].offset + start, tensor[start : start + PART_BYTES])
        for name, tensor in tensors.items()
        for start in range(0, tensor.size, PART_BYTES)
    ]
    with Path(header.path).open("rb") as file, ThreadPoolExecutor(READERS) as readers:
        # the list asks for every result, so that a reader's error comes through
        list(readers.map(partial(_read_part, header, file.fileno()), parts))
    return tensors


def _page_aligned(size: int) -> Bytes:
    buffer = np.empty(size + mmap.PAGESIZE, dtype=np.int8)
    start = -buffer.ctypes.data % mmap.PAGESIZE
    return buffer[start : start + size]


def _read_part(header: GgufHeader, file: int, part: tuple[int, Bytes]) -> None:
    offset, wanted = part
    filled = 0
    while filled < wanted.size:
        count = os.preadv(file, [wanted[filled:].data], offset + filled)
        if not count:
            raise WeightsDamaged(
                f"{header.path}: ends at {offset + filled}, it shrank while it was read; "
                "download the file again"
            )
        filled += count
