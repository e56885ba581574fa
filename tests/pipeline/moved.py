"""Count the bytes of weights that are copied whole, from one device to another or in place."""

import weakref
from typing import Any

import torch
from diffusers import FluxKontextPipeline
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_COPIES = ("aten::_to_copy", "aten::clone", "aten::_pin_memory", "aten::copy_")
Place = tuple[torch.device, int, int]


class Moved(TorchDispatchMode):
    """Inside this mode, `bytes` adds up; a weight that is unpacked or cast for a product is not.

    A copy of a weight is a weight, too, for as long as it lives: its way back counts.
    """

    def __init__(self, pipeline: FluxKontextPipeline) -> None:
        super().__init__()
        self.bytes = 0
        self._weights: dict[Place, weakref.ref[Any]] = {}
        for model in pipeline.components.values():
            if isinstance(model, nn.Module):
                for tensor in (*model.parameters(), *model.buffers()):
                    self._know(tensor)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        source = args[1] if operation.name().startswith("aten::copy_") else next(iter(args), None)
        copies = operation.name().split(".")[0] in _COPIES and self._is_weight(source)
        given = operation(*args, **(kwargs or {}))
        if copies and given.dtype == source.dtype:
            self.bytes += source.nbytes
            self._know(given)
        return given

    def _know(self, tensor: torch.Tensor) -> None:
        if tensor.nbytes:
            self._weights[_place(tensor)] = weakref.ref(tensor.untyped_storage())

    def _is_weight(self, tensor: object) -> bool:
        if not isinstance(tensor, torch.Tensor):
            return False
        known = self._weights.get(_place(tensor))
        # its memory may belong to something else by now
        return known is not None and known() is not None


def _place(tensor: torch.Tensor) -> Place:
    return tensor.device, tensor.data_ptr(), tensor.nbytes
