"""Make the tiny weights: the true layout of a weights directory in 1 MB, from a seed."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from shared.errors import WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role, read_manifest, write_manifest
from worker.pipeline.tiny_files import MODEL_INDEX, Numbers, describe, write_gguf, write_json
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
from worker.pipeline.weights.t5_names import transformers_names
from worker.pipeline.weights.whole_folder import whole_folder

# Raise the number when the weights change: the label tells one tiny model from the other.
LABEL = "illo-tiny-2"
T5_LENGTH = 512


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
    if directory.is_dir() and any(directory.iterdir()):
        return _existing(directory, label)
    try:
        with whole_folder(directory) as made:
            return _fill(made, label, seed, packed_t5, naming)
    except OSError:
        # another process was first, and its weights are the same bytes
        if directory.is_dir() and any(directory.iterdir()):
            return _existing(directory, label)
        raise


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
    write_json(directory / "model_index.json", MODEL_INDEX)
    write_json(directory / "scheduler/scheduler_config.json", SCHEDULER_CONFIG)
    write_clip_tokenizer(directory / Role.TOKENIZER, length=CLIP_LENGTH)
    write_t5_tokenizer(directory / Role.TOKENIZER_2, length=T5_LENGTH)
    write_json(directory / "text_encoder/config.json", clip_config(clip))
    write_json(directory / "text_encoder_2/config.json", t5_config(t5))
    write_json(directory / "vae/config.json", VAE_CONFIG)
    write_json(directory / "transformer/config.json", TRANSFORMER_CONFIG)
    encoder = draw_tensors(t5_shapes(t5), text_rule, seed=seed)
    parts = {
        "text_encoder/model.safetensors": draw_tensors(clip_shapes(clip), text_rule, seed=seed),
        "vae/diffusion_pytorch_model.safetensors": draw_tensors(vae_shapes(), vae_rule, seed=seed),
    }
    if packed_t5:
        names = transformers_names(TEXT_LAYERS)
        packed = {name: encoder[theirs] for name, theirs in names.items()}
        write_gguf(directory / "text_encoder_2/model.gguf", "t5encoder", label, packed)
    else:
        parts["text_encoder_2/model.safetensors"] = encoder
    for name, tensors in parts.items():
        save_file(tensors, directory / name, metadata={"format": "pt"})
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS)
    transformer = _under(naming, draw_tensors(shapes, transformer_rule, seed=seed))
    write_gguf(directory / "transformer/model.gguf", "flux", label, transformer)
    manifest = describe(directory, label, TRANSFORMER)
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
