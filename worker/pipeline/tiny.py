"""Make the tiny weights: the true layout of a weights directory in 1 MB, from a seed."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from shared.errors import WeightsMissing, WrongWeights
from shared.manifest import (
    Expects,
    Manifest,
    Role,
    describe_file,
    read_manifest,
    write_manifest,
)
from worker.pipeline.tiny_shapes import (
    CLIP_LENGTH,
    SCHEDULER_CONFIG,
    TEXT_LAYERS,
    TRANSFORMER,
    TRANSFORMER_CONFIG,
    VAE_CONFIG,
    clip_config,
    clip_shapes,
    t5_config,
    t5_shapes,
    vae_shapes,
)
from worker.pipeline.tiny_tensors import draw_tensors, text_rule, transformer_rule, vae_rule
from worker.pipeline.tiny_tokenizers import (
    clip_words,
    t5_words,
    write_clip_tokenizer,
    write_t5_tokenizer,
)
from worker.pipeline.weights.flux_names import diffusers_rows
from worker.pipeline.weights.flux_shapes import Naming, expected_shapes
from worker.pipeline.weights.t5_names import POSITIONS, transformers_names

Numbers = npt.NDArray[np.float32]

# Raise the number when the weights change: the label tells one tiny model from the other.
LABEL = "illo-tiny-2"
QUANTIZATION = gguf.GGMLQuantizationType.Q8_0
ALIGNMENT = 64
T5_LENGTH = 512

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


def make_tiny_weights(
    directory: Path,
    *,
    seed: int = 0,
    packed_t5: bool = True,
    naming: Naming = Naming.DIFFUSERS,
) -> Manifest:
    """Make the directory, or leave it as it is if it already holds just these weights.

    T5 comes as GGUF, or as the safetensors it was packed from; the transformer's tensors are the
    same under either naming. The same seed gives the same bytes. The directory appears complete
    or not at all, also when several processes make it at once. Raises WrongWeights if something
    else lies there.
    """
    label = LABEL if seed == 0 else f"{LABEL}-seed-{seed}"
    label += "" if packed_t5 else "-plain-t5"
    label += "" if naming is Naming.DIFFUSERS else f"-{naming}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    if directory.is_dir() and any(directory.iterdir()):
        return _existing(directory, label)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        manifest = _fill(made, label, seed, packed_t5, naming)
        made.chmod(0o755)
        made.rename(directory)
    except OSError:
        # another process was first, and its weights are the same bytes
        if directory.is_dir() and any(directory.iterdir()):
            return _existing(directory, label)
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _existing(directory: Path, label: str) -> Manifest:
    remedy = "remove it or choose another directory"
    try:
        manifest = read_manifest(directory)
    except WeightsMissing:
        raise WrongWeights(f"{directory}: holds files but no weights; {remedy}") from None
    if manifest.label != label:
        raise WrongWeights(f"{directory}: holds {manifest.label!r}, not {label!r}; {remedy}")
    return manifest


def _fill(directory: Path, label: str, seed: int, packed_t5: bool, naming: Naming) -> Manifest:
    for role in Role:
        if role is not Role.INDEX:
            (directory / role).mkdir()
    clip, t5 = len(clip_words()), len(t5_words())
    _write_json(directory / "model_index.json", MODEL_INDEX)
    _write_json(directory / "scheduler/scheduler_config.json", SCHEDULER_CONFIG)
    write_clip_tokenizer(directory / Role.TOKENIZER, length=CLIP_LENGTH)
    write_t5_tokenizer(directory / Role.TOKENIZER_2, length=T5_LENGTH)
    _write_json(directory / "text_encoder/config.json", clip_config(clip))
    _write_json(directory / "text_encoder_2/config.json", t5_config(t5))
    _write_json(directory / "vae/config.json", VAE_CONFIG)
    _write_json(directory / "transformer/config.json", TRANSFORMER_CONFIG)
    encoder = draw_tensors(t5_shapes(t5), text_rule, seed=seed)
    parts = {
        "text_encoder/model.safetensors": draw_tensors(clip_shapes(clip), text_rule, seed=seed),
        "vae/diffusion_pytorch_model.safetensors": draw_tensors(vae_shapes(), vae_rule, seed=seed),
    }
    if packed_t5:
        names = transformers_names(TEXT_LAYERS)
        packed = {name: encoder[theirs] for name, theirs in names.items()}
        _write_gguf(directory / "text_encoder_2/model.gguf", "t5encoder", label, packed)
    else:
        parts["text_encoder_2/model.safetensors"] = encoder
    for name, tensors in parts.items():
        save_file(tensors, directory / name, metadata={"format": "pt"})
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS)
    transformer = _under(naming, draw_tensors(shapes, transformer_rule, seed=seed))
    _write_gguf(directory / "transformer/model.gguf", "flux", label, transformer)
    manifest = _describe(directory, label)
    write_manifest(directory, manifest)
    return manifest


def _under(naming: Naming, tensors: dict[str, Numbers]) -> dict[str, Numbers]:
    shapes = expected_shapes(TRANSFORMER, naming)
    named = {name: np.empty(shape, dtype=np.float32) for name, shape in shapes.items()}
    for theirs, rows in diffusers_rows(shapes).items():
        tensor = tensors[theirs]
        if rows.swapped:
            tensor = np.roll(tensor, len(tensor) // 2, axis=0)
        named[rows.tensor][rows.start : rows.stop] = tensor
    return named


def _write_gguf(path: Path, architecture: str, label: str, tensors: dict[str, Numbers]) -> None:
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


def _stored_as(name: str, tensor: Numbers) -> gguf.GGMLQuantizationType:
    # T5's position bias is a matrix, but its rows are shorter than a block
    if tensor.ndim == 1 or name == POSITIONS:
        return gguf.GGMLQuantizationType.F32
    # as the files people download have it, and the case that is easily misread
    if name in [naming.image_input for naming in Naming]:
        return gguf.GGMLQuantizationType.BF16
    return QUANTIZATION


def _describe(directory: Path, label: str) -> Manifest:
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
            in_channels=TRANSFORMER.in_channels,
            blocks=(TRANSFORMER.double_blocks, TRANSFORMER.single_blocks),
            inner_dim=TRANSFORMER.inner,
        ),
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
