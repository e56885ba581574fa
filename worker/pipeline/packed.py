"""Layers whose weights stay in the bytes of a GGUF file; each use unpacks what it needs."""

import gguf
import torch
from diffusers.quantizers.gguf.utils import dequantize_functions
from torch import nn
from torch.nn import functional

from worker.pipeline.weights.gguf_types import GgufType

# What is unpacked at once: in between it takes 4 bytes an element, which should fit a CPU's cache
SLICE_ELEMENTS = 2**20
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def unpack(packed: torch.Tensor, stored_as: GgufType, dtype: torch.dtype) -> torch.Tensor:
    """Decode rows of packed bytes into numbers of `dtype`, each rounded once."""
    if stored_as.name in _PLAIN:
        return packed.view(_PLAIN[stored_as.name]).to(dtype)
    rows, row_bytes = packed.shape
    columns = row_bytes // stored_as.block_bytes * stored_as.block_elements
    decode = dequantize_functions[gguf.GGMLQuantizationType[stored_as.name]]
    numbers = torch.empty(rows, columns, dtype=dtype, device=packed.device)
    step = max(1, SLICE_ELEMENTS // columns)
    for start in range(0, rows, step):
        part = packed[start : start + step]
        blocks = part.reshape(-1, stored_as.block_bytes).view(torch.uint8)
        # float32 is said outright: by default diffusers decodes to float16, which would round twice
        decoded = decode(blocks, stored_as.block_elements, stored_as.block_bytes, torch.float32)
        numbers[start : start + step] = decoded.reshape(part.shape[0], columns)
    return numbers


def pack_rows(raw: torch.Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    """Lay a tensor's bytes out by the rows of its decoded shape."""
    # int8, never uint8: T5's feed-forward casts what it gives a layer to the type of the layer's
    # weight unless that is int8, and small numbers would become zeros
    return nn.Parameter(raw.view(torch.int8).reshape(shape[0], -1), requires_grad=False)


class PackedLinear(nn.Linear):  # type: ignore[misc]
    """A linear layer without bias over a packed weight; it computes in the type of its input."""

    def __init__(self, raw: torch.Tensor, shape: tuple[int, ...], stored_as: GgufType) -> None:
        rows, columns = shape
        super().__init__(columns, rows, bias=False, device="meta")
        self.weight = pack_rows(raw, shape)
        self.stored_as = stored_as

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Unpack the weight for this one product."""
        return functional.linear(inputs, unpack(self.weight, self.stored_as, inputs.dtype))


class PackedEmbedding(nn.Embedding):  # type: ignore[misc]
    """An embedding over packed rows, of which only those that are asked for are unpacked."""

    def __init__(
        self,
        raw: torch.Tensor,
        shape: tuple[int, ...],
        stored_as: GgufType,
        *,
        dtype: torch.dtype,
    ) -> None:
        rows, columns = shape
        super().__init__(rows, columns, device="meta")
        self.weight = pack_rows(raw, shape)
        self.stored_as = stored_as
        # holds no number: it changes its type with the module's, which packed bytes cannot
        self.register_buffer("typed", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Gather the rows of these words, packed, then unpack them."""
        rows = self.weight.index_select(0, ids.flatten())
        numbers = unpack(rows, self.stored_as, self.typed.dtype)
        return numbers.reshape(*ids.shape, self.embedding_dim)
