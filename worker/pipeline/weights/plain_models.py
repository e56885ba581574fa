"""Build CLIP, the VAE and a plain T5 over tensors that lie in memory already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, T5EncoderModel

from shared.errors import WrongWeights
from shared.manifest import Role
from worker.pipeline.text_encoder import encoder_config
from worker.pipeline.weights.configs import read_config
from worker.pipeline.weights.part_configs import clip_fields, vae_fields
from worker.pipeline.weights.safetensors_header import StoredTensor

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PREFIX = "text_model."  # CLIP's files have it, newer transformers do not


def load_plain(
    directory: Path,
    role: Role,
    stored: Mapping[str, StoredTensor],
    raw: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype,
) -> Any:
    """Build a model by its config; what is stored in `dtype` stays a view of the raw bytes.

    Raises WrongWeights, with a name, if a tensor is missing or of another shape.
    """
    # buffers are made for real: they are in no file
    with init_empty_weights(include_buffers=False):
        model = _empty(directory, role)
    tensors = {
        name: raw[name].view(_TYPES[tensor.type]).reshape(tensor.shape)
        for name, tensor in stored.items()
        if tensor.type in _TYPES
    }
    _fill(model, _by_own_names(model, tensors), dtype, f"{directory}/{role}")
    device = next(iter(raw.values())).device
    return model.requires_grad_(False).to(device).eval()


def _empty(directory: Path, role: Role) -> Any:
    # of what was judged, and nothing else: libraries heed more of a config than they say
    config = directory / role / "config.json"
    if role is Role.VAE:
        return AutoencoderKL(**vae_fields(read_config(config)))
    if role is Role.TEXT_ENCODER:
        unused = {"bos_token_id": None, "pad_token_id": None}
        return CLIPTextModel(CLIPTextConfig(**clip_fields(read_config(config)), **unused))
    return T5EncoderModel(encoder_config(config))


def _by_own_names(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    own = model.state_dict().keys()
    named = {
        name if name in own else name.removeprefix(_PREFIX): tensor
        for name, tensor in tensors.items()
    }
    # one tensor under two names, of which files have either
    for name, other in getattr(model, "all_tied_weights_keys", {}).items():
        for one, two in ((name, other), (other, name)):
            if one in named:
                named.setdefault(two, named[one])
    return {name: tensor for name, tensor in named.items() if name in own}


def _fill(model: Any, given: Mapping[str, torch.Tensor], dtype: torch.dtype, where: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [
        name
        for name, shape in expected.items()
        if name not in given or tuple(given[name].shape) != shape
    ]
    if wrong:
        raise WrongWeights(
            f"{where}: {len(wrong)} tensors are missing or of another shape, {wrong[0]} first; "
            f"put {where.rpartition('/')[2]} of FLUX.1-Kontext-dev there"
        )
    converted = {name: tensor.to(dtype) for name, tensor in given.items()}
    model.load_state_dict(converted, assign=True)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
