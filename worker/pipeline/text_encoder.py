"""Build T5's encoder over the bytes of a GGUF file so that its matrices stay packed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from shared.manifest import Role
from worker.pipeline.packed import PackedEmbedding, PackedLinear, pack_rows, unpack
from worker.pipeline.weights.gguf_header import GgufHeader, GgufTensor
from worker.pipeline.weights.t5_check import read_encoder_fields
from worker.pipeline.weights.t5_names import transformers_names


def load_packed_encoder(
    directory: Path,
    header: GgufHeader,
    tensors: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype,
) -> T5EncoderModel:
    """Build the encoder of a weights directory whose file has passed `check_packed_encoder`.

    `tensors` has the raw bytes of the file's tensors; matrices stay views of them, never changed
    and never unpacked more than one at a time. It computes in `dtype`, and later in whatever
    floating type it is moved to.
    """
    config = encoder_config(directory / Role.TEXT_ENCODER_2 / "config.json")
    with torch.device("meta"):
        model = T5EncoderModel(config)
    for name, theirs in transformers_names(config.num_layers).items():
        _place(model, theirs, header.tensors[name], tensors[name], dtype)
    return model.eval()


def encoder_config(config: Path) -> T5Config:
    """Make transformers' config of what was judged of ours, and of nothing else in it."""
    return T5Config(**read_encoder_fields(config), is_encoder_decoder=False, use_cache=False)


def _place(
    model: T5EncoderModel, name: str, tensor: GgufTensor, raw: torch.Tensor, dtype: torch.dtype
) -> None:
    path = name.removesuffix(".weight")
    parent, _, own = path.rpartition(".")
    module = model.get_submodule(path)
    if module is model.shared:
        # the stack has a second reference to it, which has to change too
        embedding = PackedEmbedding(raw, tensor.shape, tensor.type, dtype=dtype)
        model.set_input_embeddings(embedding)
    elif isinstance(module, nn.Linear):
        packed = PackedLinear(raw, tensor.shape, tensor.type)
        setattr(model.get_submodule(parent), own, packed)
    else:
        module.weight = nn.Parameter(_plain(raw, tensor, dtype), requires_grad=False)


def _plain(raw: torch.Tensor, tensor: GgufTensor, dtype: torch.dtype) -> torch.Tensor:
    rows = pack_rows(raw, (1, *tensor.shape)[-2:])
    # a copy: a view would keep the buffer of all packed bytes in memory after they were moved
    return unpack(rows, tensor.type, dtype).reshape(tensor.shape).clone()
