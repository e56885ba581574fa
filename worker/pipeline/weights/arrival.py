"""Where the fetched models come to: arenas on their devices, filled while others do their work."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

import torch

from shared.manifest import Role
from worker.pipeline.weights.fetching import Fetching
from worker.pipeline.weights.landing import CudaMover, HostMover, Mover, PinnedRing, RingLanding

HOST = torch.device("cpu")


class Arrival:
    """A fetch whose bytes are taken to where they are to lie, from now on.

    A `with` block, or `close`, ends it, and the fetch, wherever they are; what lies in the arenas
    stays.
    """

    def __init__(
        self, fetching: Fetching, devices: Mapping[Role, torch.device] | None = None
    ) -> None:
        """Begin once the headers were judged; a model without a device goes to host memory.

        Raises what `Fetching.opened` does, and torch.OutOfMemoryError if a device is too small.
        """
        self.fetching, self.devices = fetching, dict(devices or {})
        self._arenas: Mapping[Role, torch.Tensor] = {}
        with ExitStack() as ended:
            ended.callback(fetching.close)
            fetching.opened()
            if fetching.through_ring:
                self._arenas = self._land(ended)
            self._ended = ended.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def device_of(self, role: Role) -> torch.device:
        """Where a model is to lie."""
        return self.devices.get(role, HOST)

    def arena(self, role: Role) -> torch.Tensor:
        """Give the memory that a model's bytes come to."""
        if role in self._arenas:
            return self._arenas[role]
        return torch.from_numpy(self.fetching.arena(role))

    def close(self) -> None:
        """See the class; the second time nothing happens."""
        self._ended.close()

    def _land(self, ended: ExitStack) -> Mapping[Role, torch.Tensor]:
        sizes = self.fetching.opened().layout.arena_bytes
        made: dict[torch.device, Mover] = {}
        for device in {self.device_of(role) for role in sizes}:
            made[device] = CudaMover(device) if device.type == "cuda" else HostMover()
        movers = {role: made[self.device_of(role)] for role in sizes}
        ring = ended.enter_context(
            PinnedRing(self.fetching.ring(), pin=any(device.type == "cuda" for device in made))
        )
        landing = RingLanding(
            ring.octets, slot_bytes=self.fetching.slot_bytes, arena_bytes=sizes, movers=movers
        )
        # in reverse: no more to copy, all copies ended, and only then the ring is unpinned
        ended.callback(landing.finish)
        ended.callback(self.fetching.close)
        self.fetching.land(landing)
        return landing.arenas
