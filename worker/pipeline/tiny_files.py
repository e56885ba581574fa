"""Write the files of small weights: configs, packed tensors, and the manifest over them."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from shared.manifest import TEXT_TOKENS, Expects, Manifest, Role, describe_file
from shared.scenes import USUAL_PIXELS
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming
from worker.pipeline.weights.t5_names import POSITIONS

Numbers = npt.NDArray[np.float32]

QUANTIZATION = gguf.GGMLQuantizationType.Q8_0
ALIGNMENT = 64

MODEL_INDEX = {
    "_class_name": "FluxKontextPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_gguf(path: Path, architecture: str, label: str, tensors: dict[str, Numbers]) -> None:
    """Write tensors as GGUF: matrices in Q8_0, what has short rows or one in F32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(label)
    writer.add_custom_alignment(ALIGNMENT)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, tensor in tensors.items():
        type_ = _stored_as(name, tensor)
        writer.add_tensor(name, gguf.quantize(tensor, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(
    directory: Path,
    label: str,
    sizes: FluxSizes,
    *,
    text_tokens: int = TEXT_TOKENS,
    usual_pixels: int = USUAL_PIXELS,
) -> Manifest:
    """Digest every file of a directory for its manifest."""
    paths = sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
    return Manifest(
        label=label,
        files=tuple(
            describe_file(
                directory,
                path.as_posix(),
                Role(path.parts[0]) if len(path.parts) > 1 else Role.INDEX,
                quantization=QUANTIZATION.name if path.suffix == ".gguf" else None,
            )
            for path in paths
        ),
        expects=Expects(
            in_channels=sizes.in_channels,
            blocks=(sizes.double_blocks, sizes.single_blocks),
            inner_dim=sizes.inner,
        ),
        text_tokens=text_tokens,
        usual_pixels=usual_pixels,
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a config as people can read it."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _stored_as(name: str, tensor: Numbers) -> gguf.GGMLQuantizationType:
    # T5's position bias is a matrix, but its rows are shorter than a block
    if tensor.ndim == 1 or name == POSITIONS:
        return gguf.GGMLQuantizationType.F32
    # as the files people download have it, and the case that is easily misread
    if name in [naming.image_input for naming in Naming]:
        return gguf.GGMLQuantizationType.BF16
    return QUANTIZATION
