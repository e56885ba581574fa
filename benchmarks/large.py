"""Make weights whose transformer has blocks in their true shapes, as many as make 2 GB.

It is in Q8_0, under the names of the files people download; what else belongs to a set is tiny.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.manifest import Expects, Role, describe_file, read_manifest, write_manifest
from tests.unit.gguf_files import ALIGNMENT, BF16, F32, Q8_0, Info, gguf_bytes, string
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.tiny_shapes import TRANSFORMER
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming, expected_shapes
from worker.pipeline.weights.gguf_types import type_of

SIZES = FluxSizes(
    in_channels=64,
    out_channels=64,
    double_blocks=3,  # of 19, and 7 of 38: with them the file has 2.1 GB
    single_blocks=7,
    heads=24,
    head_channels=128,
    text_channels=4096,
    pooled_channels=768,
    guidance=True,
)
MODEL = Path(Role.TRANSFORMER) / "model.gguf"


def write_weights(folder: Path) -> int:
    """Write a set of weights of which only the transformer is large; give its file's size."""
    make_tiny_weights(folder)
    sizes = replace(
        SIZES,
        text_channels=TRANSFORMER.text_channels,
        pooled_channels=TRANSFORMER.pooled_channels,
    )
    write_transformer(folder, sizes)
    manifest = read_manifest(folder)
    files = tuple(
        describe_file(folder, file.path, file.role) if file.role is Role.TRANSFORMER else file
        for file in manifest.files
    )
    expects = Expects(
        in_channels=sizes.in_channels,
        blocks=(sizes.double_blocks, sizes.single_blocks),
        inner_dim=sizes.inner,
    )
    write_manifest(folder, replace(manifest, files=files, expects=expects))
    return (folder / MODEL).stat().st_size


def write_transformer(folder: Path, sizes: FluxSizes = SIZES) -> None:
    """Write config and file, with random numbers of a sane size."""
    (folder / Role.TRANSFORMER).mkdir(exist_ok=True)
    (folder / Role.TRANSFORMER / "config.json").write_text(json.dumps(_config(sizes)))
    infos, end = [], 0
    for name, shape in expected_shapes(sizes, Naming.ORIGINAL).items():
        kind = F32 if len(shape) == 1 else BF16 if shape[-1] == sizes.in_channels else Q8_0
        infos.append(Info(name=name, dims=shape[::-1], type=kind, offset=end))
        end += math.ceil(_bytes_of(infos[-1]) / ALIGNMENT) * ALIGNMENT
    with (folder / MODEL).open("wb") as file:
        file.write(gguf_bytes(infos, keys=[("general.architecture", string("flux"))]))
        for octets in _drawn(infos, np.random.default_rng(7)):
            file.write(octets.data)


def _config(sizes: FluxSizes) -> dict[str, Any]:
    return {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": sizes.head_channels,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": sizes.guidance,
        "in_channels": sizes.in_channels,
        "joint_attention_dim": sizes.text_channels,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.double_blocks,
        "num_single_layers": sizes.single_blocks,
        "pooled_projection_dim": sizes.pooled_channels,
    }


def _drawn(infos: list[Info], chance: np.random.Generator) -> Iterator[Octets]:
    for info in infos:
        if info.type == Q8_0:
            octets = chance.integers(0, 256, (_bytes_of(info) // 34, 34), dtype=np.uint8)
            # the first two bytes are the block's scale, which must not be infinite
            scales = chance.uniform(1e-4, 1e-3, len(octets)).astype(np.float16)
            octets[:, :2] = scales.view(np.uint8).reshape(-1, 2)
        else:
            numbers = chance.standard_normal(math.prod(info.dims), dtype=np.float32)
            octets = numbers.view(np.uint8).reshape(-1, 4)[:, 2 if info.type == BF16 else 0 :]
        yield np.ascontiguousarray(octets).reshape(-1)
        yield np.zeros(-octets.size % ALIGNMENT, np.uint8)


def _bytes_of(info: Info) -> int:
    stored_as = type_of(info.type)
    assert stored_as
    return math.prod(info.dims) // stored_as.block_elements * stored_as.block_bytes
