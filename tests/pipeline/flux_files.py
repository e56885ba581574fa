"""Small FLUX transformers in GGUF files, and diffusers' own way to load them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig
from diffusers.loaders import single_file_model
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from shared.manifest import Role
from tests.pipeline.encoders import SCALES, Packed, Type, packed
from worker.pipeline.transformer import place_transformer
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming, expected_shapes
from worker.pipeline.weights.gguf_header import GgufHeader, read_header

# K-quants share 256 numbers per block, so 256 is the least that a row may have
SIZES = FluxSizes(
    in_channels=64,
    out_channels=64,
    double_blocks=2,
    single_blocks=1,
    heads=8,
    head_channels=32,
    text_channels=256,
    pooled_channels=256,
    guidance=True,
)
FULL = FluxSizes(
    in_channels=64,
    out_channels=64,
    double_blocks=19,
    single_blocks=38,
    heads=24,
    head_channels=128,
    text_channels=4096,
    pooled_channels=768,
    guidance=True,
)
WIDTH_OF_DIFFUSERS = 3072  # its converter of the original names knows no other

Raw = dict[str, torch.Tensor]
Convert = Callable[..., dict[str, torch.Tensor]]


def a_transformer(
    naming: Naming,
    choose: Callable[[str], Type] = lambda name: Type.Q8_0,
    *,
    vectors: Type = Type.F32,
) -> dict[str, Packed]:
    """Draw all tensors of a transformer; `choose` gives the type of each matrix."""
    chance = np.random.default_rng(7)
    tensors = {}
    for name, shape in expected_shapes(SIZES, naming).items():
        type_ = vectors if len(shape) == 1 else choose(name)
        elements, _ = gguf.GGML_QUANT_SIZES[type_]
        # rows of 64 hold no block of 256; in the files people download they are BF16, too
        type_ = Type.BF16 if shape[-1] % elements else type_
        if type_ not in SCALES and name.endswith(("scale", "norm_q.weight", "norm_k.weight")):
            near_one = 1 + 0.1 * chance.standard_normal(shape, dtype=np.float32)
            raw = gguf.quantize(near_one, type_)
            tensors[name] = Packed(raw=raw, type=type_, shape=shape)
        else:
            tensors[name] = packed(shape, type_, chance)
    return tensors


def write_transformer(
    directory: Path, tensors: Mapping[str, Packed], *, prefix: str = "", alignment: int = 32
) -> Path:
    """Write config and GGUF file into a weights directory that has nothing else."""
    folder = directory / Role.TRANSFORMER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(SIZES)))
    writer = gguf.GGUFWriter(folder / "model.gguf", "flux")
    writer.add_custom_alignment(alignment)
    for name, tensor in tensors.items():
        writer.add_tensor(prefix + name, tensor.raw, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


def config_of(sizes: FluxSizes) -> dict[str, Any]:
    """Configure a transformer of these sizes."""
    axis = sizes.head_channels // 8
    return {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": sizes.head_channels,
        "axes_dims_rope": [2 * axis, 3 * axis, 3 * axis],
        "guidance_embeds": sizes.guidance,
        "in_channels": sizes.in_channels,
        "joint_attention_dim": sizes.text_channels,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.double_blocks,
        "num_single_layers": sizes.single_blocks,
        "out_channels": sizes.out_channels,
        "patch_size": 1,
        "pooled_projection_dim": sizes.pooled_channels,
    }


def load(directory: Path, file: Path, dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """Load as illo does: read the bytes, and build the model over them."""
    header, tensors = opened(file)
    return place_transformer(directory, header, tensors, dtype=dtype)


def opened(file: Path) -> tuple[GgufHeader, Raw]:
    """Read header and bytes; all tensors are views of one buffer that nobody else has."""
    header, content = read_header(file), torch.from_numpy(np.fromfile(file, dtype=np.int8))
    return header, {
        name: content[tensor.offset : tensor.offset + tensor.bytes]
        for name, tensor in header.tensors.items()
    }


def load_with_diffusers(
    directory: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype = torch.float32,
) -> FluxTransformer2DModel:
    """Load the file with nothing of ours; only the width in the converter is exchanged."""
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", converter(SIZES.inner))
    return FluxTransformer2DModel.from_single_file(
        str(file),
        config=str(directory),
        subfolder=Role.TRANSFORMER.value,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        torch_dtype=dtype,
        local_files_only=True,
    )


def converter(width: int) -> Convert:
    """Take diffusers' converter of the original names, with this width instead of its own."""
    theirs: Convert = convert_flux_transformer_checkpoint_to_diffusers
    if width == WIDTH_OF_DIFFUSERS:
        return theirs
    code = convert_flux_transformer_checkpoint_to_diffusers.__code__
    assert code.co_consts.count(WIDTH_OF_DIFFUSERS) == 1
    constants = [width if each == WIDTH_OF_DIFFUSERS else each for each in code.co_consts]
    changed = FunctionType(code.replace(co_consts=tuple(constants)), theirs.__globals__)
    # from_single_file looks at the signature for what else it might give
    return lambda checkpoint, **kwargs: changed(checkpoint, **kwargs)


def forward(model: FluxTransformer2DModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Let a model look at a small picture and a short text, the same ones each time."""
    chance = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance).to(dtype)

    places = torch.zeros(16, 3)
    places[:, 1], places[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    with torch.no_grad():
        found: torch.Tensor = model(
            hidden_states=drawn(1, 16, model.config.in_channels),
            encoder_hidden_states=drawn(1, 8, model.config.joint_attention_dim),
            pooled_projections=drawn(1, model.config.pooled_projection_dim),
            timestep=torch.tensor([0.5], dtype=dtype),
            guidance=torch.tensor([2.5], dtype=dtype) if model.config.guidance_embeds else None,
            img_ids=places,
            txt_ids=torch.zeros(8, 3),
            return_dict=False,
        )[0]
    return found
