"""Make random weights of the true shapes: a complete directory, in a minute or two."""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.gpu.blocks import Octets, random_blocks
from benchmarks.gpu.sizes import FULL, Sizes
from shared.errors import WrongWeights
from shared.manifest import (
    NAME,
    Expects,
    Manifest,
    Role,
    describe_file,
    read_manifest,
    write_manifest,
)  # fmt: skip
from worker.pipeline.tiny import T5_LENGTH
from worker.pipeline.tiny_files import ALIGNMENT, MODEL_INDEX
from worker.pipeline.tiny_shapes import CLIP_LENGTH, SCHEDULER_CONFIG
from worker.pipeline.tiny_tensors import draw_tensors, text_rule, vae_rule
from worker.pipeline.tiny_tokenizers import write_clip_tokenizer, write_t5_tokenizer
from worker.pipeline.weights.flux_shapes import Naming, Shapes, expected_shapes
from worker.pipeline.weights.t5_names import EMBEDDING, POSITIONS, encoder_shapes

VERSION = 1  # raise it when the same arguments make other weights
QUANTIZATION = "Q8_0"
PREFIX = "text_model."  # of CLIP's tensors in the files; newer libraries leave it out
DIGESTERS = 4  # the two large files and some small ones at once


def make_full_weights(
    directory: Path,
    *,
    blocks: tuple[int, int] = (19, 38),
    t5_blocks: int = 24,
    quantization: str = QUANTIZATION,
    sizes: Sizes = FULL,
    seed: int = 0,
) -> Manifest:
    """Make the directory, or leave it as it is if it already holds just these weights.

    With the defaults it takes 18 GB of disk and less than 2 GB of memory. The directory appears
    complete or not at all. Raises WrongWeights if something else lies there.
    """
    sizes = sizes.with_depths(blocks=blocks, t5_blocks=t5_blocks)
    depths = "-".join(map(str, (*blocks, t5_blocks)))
    label = f"illo-random-{VERSION}-{sizes.name}-{depths}-{quantization}-seed-{seed}"
    if directory.exists():
        manifest = read_manifest(directory)
        if manifest.label != label:
            raise WrongWeights(
                f"{directory}: holds {manifest.label!r}, not {label!r}; choose another directory"
            )
        return manifest
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _fill(made, sizes, label, quantization, seed)
        manifest = _describe(made, sizes, label, quantization)
        write_manifest(made, manifest)
        made.rename(directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _fill(directory: Path, sizes: Sizes, label: str, quantization: str, seed: int) -> None:
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": MODEL_INDEX,
        "scheduler/scheduler_config.json": SCHEDULER_CONFIG,
        "text_encoder/config.json": sizes.clip,
        "text_encoder_2/config.json": sizes.t5_config,
        "transformer/config.json": sizes.transformer_config,
        "vae/config.json": sizes.vae,
    }
    for role in Role:
        if role is not Role.INDEX:
            (directory / role).mkdir()
    for path, config in configs.items():
        (directory / path).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_clip_tokenizer(directory / Role.TOKENIZER, length=CLIP_LENGTH)
    write_t5_tokenizer(directory / Role.TOKENIZER_2, length=T5_LENGTH)
    for path, shapes, rule in (
        ("text_encoder/model.safetensors", _clip_shapes(sizes), text_rule),
        ("vae/diffusion_pytorch_model.safetensors", _vae_shapes(sizes), vae_rule),
    ):
        drawn = draw_tensors(shapes, rule, seed=seed)
        plain = {name: torch.from_numpy(each).bfloat16() for name, each in drawn.items()}
        save_file(plain, directory / path, metadata={"format": "pt"})
    write = partial(_write_gguf, label=label, quantization=quantization, seed=seed)
    flux = expected_shapes(sizes.flux, sizes.naming)
    write(directory / "transformer/model.gguf", "flux", flux)
    write(directory / "text_encoder_2/model.gguf", "t5encoder", encoder_shapes(sizes.t5))


def _write_gguf(
    path: Path, architecture: str, shapes: Shapes, *, label: str, quantization: str, seed: int
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(label)
    writer.add_custom_alignment(ALIGNMENT)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, shape in shapes.items():
        stored_as = _stored_as(name, shape, quantization)
        elements, block_bytes = gguf.GGML_QUANT_SIZES[stored_as]
        size = math.prod(shape) // elements * block_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in _tensors(shapes, quantization, seed):
        writer.write_tensor_data(tensor)
    writer.close()


def _tensors(shapes: Shapes, quantization: str, seed: int) -> Iterator[Octets]:
    """Draw one tensor after the other, so that no more than one is in memory."""
    for name, shape in shapes.items():
        stored_as = _stored_as(name, shape, quantization)
        if stored_as.name == quantization:
            rows, columns = shape
            # as loud as what they are given, except for words, which begin at one
            size = 1.0 if name == EMBEDDING else columns**-0.5
            yield random_blocks((rows, columns), quantization, name=name, seed=seed, size=size)
        else:
            [drawn] = draw_tensors({name: shape}, _plain_rule, seed=seed).values()
            yield gguf.quantize(drawn, stored_as)


def _plain_rule(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Any:
    if "norm" in name and len(shape) == 1 and not name.endswith("bias"):
        return np.ones(shape)
    scale = 0.1 if len(shape) == 1 or name == POSITIONS else shape[-1] ** -0.5
    return scale * chance.standard_normal(shape)


def _stored_as(name: str, shape: tuple[int, ...], quantization: str) -> gguf.GGMLQuantizationType:
    if len(shape) == 1 or name == POSITIONS:
        return gguf.GGMLQuantizationType.F32
    if name in [naming.image_input for naming in Naming]:
        return gguf.GGMLQuantizationType.BF16
    return gguf.GGMLQuantizationType[quantization]


def _clip_shapes(sizes: Sizes) -> Shapes:
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**sizes.clip))
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {f"{PREFIX}{name.removeprefix(PREFIX)}": shape for name, shape in found.items()}


def _vae_shapes(sizes: Sizes) -> Shapes:
    with torch.device("meta"):
        model = AutoencoderKL.from_config(sizes.vae)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _describe(directory: Path, sizes: Sizes, label: str, quantization: str) -> Manifest:
    paths = sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())

    def described(path: Path) -> Any:
        role = Role(path.parts[0]) if len(path.parts) > 1 else Role.INDEX
        packed = quantization if path.suffix == ".gguf" else None
        return describe_file(directory, path.as_posix(), role, quantization=packed)

    with ThreadPoolExecutor(DIGESTERS) as threads:
        files = tuple(threads.map(described, [path for path in paths if path.name != NAME]))
    return Manifest(
        label=label,
        files=files,
        expects=Expects(
            in_channels=sizes.flux.in_channels,
            blocks=(sizes.flux.double_blocks, sizes.flux.single_blocks),
            inner_dim=sizes.flux.inner,
        ),
    )
