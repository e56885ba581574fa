"""Packed numbers by chance: valid blocks of a GGUF type, made without unpacking any."""

import math
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import numpy.typing as npt

Octets = npt.NDArray[np.uint8]

# Types whose blocks are one float16 scale and then bits that may be anything: the standard
# deviation of what these bits mean, evenly spread, before the scale.
SPREADS = {"Q8_0": 73.9, "Q5_0": 9.23, "Q4_0": 4.61}
SCALE_STEPS = 255  # a scale is raised by up to so many 1,024ths, so that blocks differ in it
PIECE_BLOCKS = 2**18  # drawn by one thread at once; a multiple of 8, so pieces are whole words
WORD_BYTES = 8


def random_blocks(
    shape: tuple[int, int], quantization: str, *, name: str, seed: int, size: float
) -> Octets:
    """Draw a packed matrix, rows of bytes, whose numbers have about the standard deviation `size`.

    The same seed and name give the same bytes.
    """
    type_ = gguf.GGMLQuantizationType[quantization]
    elements, block_bytes = gguf.GGML_QUANT_SIZES[type_]
    rows, columns = shape
    count = rows * (columns // elements)
    scale = np.float16(size / SPREADS[quantization] / (1 + SCALE_STEPS / 2 / 1024))
    least = scale.view(np.uint16)
    packed = np.empty((count, block_bytes), np.uint8)

    def fill(start: int) -> None:
        part = packed[start : start + PIECE_BLOCKS]
        chance = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode()), start]))
        words = chance.integers(0, 2**64, math.ceil(part.size / WORD_BYTES), dtype=np.uint64)
        part[:] = words.view(np.uint8)[: part.size].reshape(part.shape)
        scales = part[:, :2].view(np.uint16)
        scales[:] = least + (scales & SCALE_STEPS)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(0, count, PIECE_BLOCKS)))
    return packed.reshape(rows, -1)
