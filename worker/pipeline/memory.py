"""The device's memory: say when it was not enough, and how much of it was taken."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.errors import OutOfMemory


@contextmanager
def telling_of_memory() -> Iterator[None]:
    """Raise OutOfMemory where torch found no room."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the device has no room for this drawing: {error}") from None
    except RuntimeError as error:
        # torch has no class of its own for a CPU that has no memory left
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"the machine has no room for this drawing: {error}") from None


def begin_peak(device: torch.device) -> None:
    """Measure the most that is taken from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_of(device: torch.device) -> int | None:
    """Tell the most bytes that tensors took since `begin_peak`; not known of a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
