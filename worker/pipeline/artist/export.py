"""Write what was taught as a weights directory, in the layout and types of the full size."""

import shutil
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from shared.errors import WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role, read_manifest, write_manifest
from worker.pipeline.artist.captions import TEXT_TOKENS
from worker.pipeline.artist.drawings import SIZES as PICTURE_SIZES
from worker.pipeline.artist.flow_training import make_tokenizers
from worker.pipeline.artist.shapes import (
    ARTIST_VAE_CONFIG,
    SIZES,
    TRANSFORMER_CONFIG,
    Reader,
    artist_clip_config,
    artist_t5_config,
)
from worker.pipeline.artist.words import t5_twins
from worker.pipeline.tiny_files import MODEL_INDEX, describe, write_gguf, write_json
from worker.pipeline.tiny_shapes import SCHEDULER_CONFIG
from worker.pipeline.weights.t5_names import EMBEDDING, transformers_names

LABEL = "illo-small-artist"
_PREFIX = "text_model."  # CLIP's files have it, newer transformers do not


def export(directory: Path, vae: Any, reader: Reader) -> Manifest:
    """Write the directory, or replace an earlier artist there; it appears whole or not at all.

    Raises WrongWeights if something else lies there.
    """
    refuse_others(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        manifest = _fill(made, vae, reader)
        made.chmod(0o755)
        _put(made, directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def _put(made: Path, directory: Path) -> None:
    before = made.with_name(f"{made.name}-before")
    try:
        if directory.exists():
            directory.rename(before)
        made.rename(directory)
    finally:
        if before.exists() and not directory.exists():
            before.rename(directory)
    shutil.rmtree(before, ignore_errors=True)


def refuse_others(directory: Path) -> None:
    """Raise WrongWeights if a directory holds anything but an artist."""
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    try:
        label = read_manifest(directory).label
    except WeightsMissing:
        label = None
    if label != LABEL:
        raise WrongWeights(f"{directory}: holds something else; choose another directory")


def _fill(directory: Path, vae: Any, reader: Reader) -> Manifest:
    make_tokenizers(directory)
    for role in (
        Role.SCHEDULER,
        Role.TEXT_ENCODER,
        Role.TEXT_ENCODER_2,
        Role.TRANSFORMER,
        Role.VAE,
    ):
        (directory / role).mkdir()
    measured = {name: vae.config[name] for name in ("scaling_factor", "shift_factor")}
    configs = {
        "model_index.json": MODEL_INDEX,
        "scheduler/scheduler_config.json": SCHEDULER_CONFIG,
        "text_encoder/config.json": artist_clip_config(),
        "text_encoder_2/config.json": artist_t5_config(),
        "transformer/config.json": TRANSFORMER_CONFIG,
        "vae/config.json": ARTIST_VAE_CONFIG | measured,
    }
    for name, config in configs.items():
        write_json(directory / name, config)
    clip = {f"{_PREFIX}{name}": each for name, each in _plain(reader.clip).items()}
    _save(directory / "text_encoder/model.safetensors", clip, torch.float32)
    _save(directory / "vae/diffusion_pytorch_model.safetensors", _plain(vae), torch.bfloat16)
    write_gguf(directory / "text_encoder_2/model.gguf", "t5encoder", LABEL, _t5(reader.t5))
    transformer = {name: each.numpy() for name, each in _plain(reader.transformer).items()}
    write_gguf(directory / "transformer/model.gguf", "flux", LABEL, transformer)
    usual_pixels = prod(PICTURE_SIZES[0])
    manifest = describe(directory, LABEL, SIZES, text_tokens=TEXT_TOKENS, usual_pixels=usual_pixels)
    write_manifest(directory, manifest)
    return manifest


def _plain(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: each.detach().to("cpu", torch.float32).contiguous()
        for name, each in model.state_dict().items()
    }


def _save(path: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    typed = {name: each.to(dtype) for name, each in tensors.items()}
    save_file(typed, path, metadata={"format": "pt"})


def _t5(t5: Any) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    own = _plain(t5)
    names = transformers_names(t5.config.num_layers)
    packed = {name: own[theirs].numpy() for name, theirs in names.items()}
    packed[EMBEDDING] = packed[EMBEDDING][list(t5_twins())]
    return packed
