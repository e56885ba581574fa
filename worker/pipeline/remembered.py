"""A bounded memory of what was computed, by what it was computed from."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
Tensors = tuple[torch.Tensor, ...]


class Remembered(Generic[Key]):
    """Keeps tensors in main memory up to a sum of bytes; what was used longest ago goes first.

    Every method may be called by any thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, Tensors] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = self.hits = self.misses = 0

    def get(self, key: Key) -> Tensors | None:
        """Give what was put under the key and is still there."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return found

    def __contains__(self, key: Key) -> bool:
        """Look without counting it as a use."""
        with self._lock:
            return key in self._kept

    def put(self, key: Key, value: Tensors) -> None:
        """Keep a value that nobody will write to; one larger than the limit is not kept."""
        # contiguous and detached from what it was a row of: a view would keep the whole
        kept = tuple(tensor.detach().to("cpu", copy=True) for tensor in value)
        size = _bytes(kept)
        with self._lock:
            self._drop(key)
            if size > self._limit:
                return
            self._kept[key] = kept
            self.bytes += size
            while self.bytes > self._limit:
                self._drop(next(iter(self._kept)))

    def forget(self, key: Key) -> None:
        """Keep it no longer; nothing happens if it is not there."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.bytes -= _bytes(dropped)


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)
