"""Copy tensors' bytes out of the ring's slots into arenas, on a device or in host memory."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from shared.manifest import Role
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.shared_memory import private
from worker.pipeline.weights.telling import Filled


class Mover(Protocol):
    """What moves bytes; all of it is called by one thread at a time."""

    def empty(self, size: int) -> torch.Tensor:
        """Make an arena of so many bytes."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Begin to copy; after the copies that were begun before."""

    def mark(self) -> Callable[[], bool]:
        """Give what tells whether all copies have ended that were begun until now."""

    def finish(self) -> None:
        """Wait until all copies have ended, for everybody who computes on the device."""


class HostMover:
    """See Mover; copies at once."""

    def empty(self, size: int) -> torch.Tensor:
        """See Mover.empty."""
        return torch.from_numpy(private(size))

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See Mover.copy."""
        target.copy_(source)

    def mark(self) -> Callable[[], bool]:
        """See Mover.mark."""
        return lambda: True

    def finish(self) -> None:
        """See Mover.finish."""


class CudaMover:
    """See Mover; copies over a stream of its own, beside whatever else the device does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def empty(self, size: int) -> torch.Tensor:
        """See Mover.empty."""
        made = torch.empty(size, dtype=torch.uint8, device=self._device)
        # the allocator may give memory that the other stream has not done with
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return made

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See Mover.copy."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def mark(self) -> Callable[[], bool]:
        """See Mover.mark."""
        event = torch.cuda.Event()
        event.record(self._stream)
        ended: Callable[[], bool] = event.query
        return ended

    def finish(self) -> None:
        """See Mover.finish."""
        self._stream.synchronize()


class PinnedRing:
    """The ring's memory, pinned while the block lasts, so that a device copies from it itself."""

    def __init__(self, octets: Octets, *, pin: bool) -> None:
        self.octets = torch.from_numpy(octets)
        self._pin = pin
        self.pinned = False

    def __enter__(self) -> "PinnedRing":
        if self._pin:
            status = torch.cuda.cudart().cudaHostRegister(
                self.octets.data_ptr(), self.octets.nbytes, 0
            )
            # without it copies are slower, and still right
            self.pinned = int(status) == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.pinned:
            torch.cuda.cudart().cudaHostUnregister(self.octets.data_ptr())
            self.pinned = False


class RingLanding:
    """See Landing; every model has an arena where its mover made it."""

    def __init__(
        self,
        ring: torch.Tensor,
        *,
        slot_bytes: int,
        arena_bytes: Mapping[Role, int],
        movers: Mapping[Role, Mover],
    ) -> None:
        self._slots = ring.view(-1, slot_bytes)
        self._movers = movers
        self.arenas = {role: movers[role].empty(size) for role, size in arena_bytes.items()}
        self._under_way: deque[tuple[int, Callable[[], bool]]] = deque()

    @property
    def busy(self) -> bool:
        """See Landing.busy."""
        return bool(self._under_way)

    def copy(self, filled: Filled) -> None:
        """See Landing.copy."""
        slot, mover = self._slots[filled.slot], self._movers[filled.role]
        arena = self.arenas[filled.role]
        for copy in filled.copies:
            source = slot[copy.start : copy.start + copy.bytes]
            mover.copy(arena[copy.at : copy.at + copy.bytes], source)
        self._under_way.append((filled.slot, mover.mark()))

    def copied(self) -> list[int]:
        """See Landing.copied."""
        free = []
        while self._under_way and self._under_way[0][1]():
            free.append(self._under_way.popleft()[0])
        return free

    def finish(self) -> list[int]:
        """See Landing.finish."""
        for mover in self._movers.values():
            mover.finish()
        free = [slot for slot, _ in self._under_way]
        self._under_way.clear()
        return free
