"""Build the FLUX transformer over the bytes of a GGUF file, without copying its matrices."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import torch
from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig
from diffusers.quantizers.gguf.utils import GGUFParameter

from shared.manifest import Role
from worker.pipeline.weights.flux_names import Rows, rows_in
from worker.pipeline.weights.gguf_header import GgufHeader, GgufTensor

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def place_transformer(
    directory: Path, header: GgufHeader, tensors: Mapping[str, torch.Tensor], *, dtype: torch.dtype
) -> FluxTransformer2DModel:
    """Build the transformer of a weights directory whose file has passed `check_transformer`.

    `tensors` has the raw bytes of every tensor in the header, all on the device where the model is
    to be. Packed matrices stay views of them as long as it lives; it computes in `dtype`.
    """
    parameters = {
        name: _parameter(tensors[rows.tensor], header.tensors[rows.tensor], rows)
        for name, rows in rows_in(header).items()
    }
    return FluxTransformer2DModel.from_single_file(
        parameters,
        # config is explicit: diffusers misreads a BF16 img_in as Depth-dev's 128 channels
        config=str(directory),
        subfolder=Role.TRANSFORMER.value,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        torch_dtype=dtype,
        device=parameters["x_embedder.weight"].device,
        local_files_only=True,
    )


def _parameter(raw: torch.Tensor, tensor: GgufTensor, rows: Rows) -> torch.Tensor:
    plain = _PLAIN.get(tensor.type.name)
    # diffusers keeps BF16 matrices packed; a packed vector would break the first forward
    if plain is torch.bfloat16 and len(tensor.shape) > 1:
        plain = None
    if plain is not None:
        return _cut(raw.view(plain).reshape(tensor.shape), rows)
    by_rows = raw.view(torch.uint8).reshape(tensor.shape[0], -1)
    stored_as = gguf.GGMLQuantizationType[tensor.type.name]
    return GGUFParameter(_cut(by_rows, rows), quant_type=stored_as)


def _cut(by_rows: torch.Tensor, rows: Rows) -> torch.Tensor:
    part = by_rows[rows.start : rows.stop]
    # the one copy: halves in another order are no view
    return torch.cat(part.chunk(2)[::-1]) if rows.swapped else part
