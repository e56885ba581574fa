"""Memory for weights, shared between processes or not; it is gone when nobody uses it any more.

In pages of 2 MB where the kernel gives them: to fill a GB of small ones takes 0.9 s of a core, of
large ones 0.2. For memory that is shared that is a setting of the machine (`shmem_enabled`).
"""

import mmap
import os
import tempfile
from contextlib import suppress

import numpy as np

from worker.pipeline.weights.crc import Octets

HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def create(name: str) -> int:
    """Open shared memory of no bytes yet."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"illo-{name}")
    with tempfile.TemporaryFile(prefix=f"illo-{name}-") as file:  # not on Linux: the nearest thing
        return os.dup(file.fileno())


def grow(file: int, size: int) -> Octets:
    """Give shared memory its size, once, and map it."""
    os.ftruncate(file, size)
    return mapped(file, size)


def mapped_whole(file: int) -> Octets:
    """Map shared memory of whatever size it was given."""
    return mapped(file, os.fstat(file).st_size)


def mapped(file: int, size: int) -> Octets:
    """Map shared memory that has its size; it stays while any view of the result does."""
    return _in_large_pages(mmap.mmap(file, size)) if size else np.empty(0, np.uint8)


def private(size: int) -> Octets:
    """Map memory of this process alone."""
    return _in_large_pages(mmap.mmap(-1, size, PRIVATE)) if size else np.empty(0, np.uint8)


def _in_large_pages(memory: mmap.mmap) -> Octets:
    if HUGE is not None:
        with suppress(OSError):  # a kernel without them
            memory.madvise(HUGE)
    return np.frombuffer(memory, np.uint8)


def close(file: int) -> None:
    """Let go of shared memory that is mapped, or not needed."""
    os.close(file)
