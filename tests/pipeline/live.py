"""Count the bytes that tensors hold at once, on any device: also on `meta`, where none are."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Inside this mode, `now` is what was made and is still held, `peak` the most of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = operation(*args, **(kwargs or {}))
        taken = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(given):
            if storage._cdata not in self._known | taken:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return given

    def _drop(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


def peak_of(compute: Callable[[], object]) -> int:
    """Tell the most bytes that a computation's own tensors hold at once."""
    live = Live()
    with torch.no_grad(), _attention_without_scores(), live:
        compute()
    return live.peak


@contextmanager
def _attention_without_scores() -> Iterator[None]:
    """Let attention make its result only, as the kernels of a card do."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> Any:
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    stock = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = stock


def _storages(values: object) -> list[Any]:
    return [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, torch.Tensor)]
