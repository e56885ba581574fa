"""Find, in what people download, the files that a weights directory is made of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Role

PIPELINES = ("FluxKontextPipeline", "FluxPipeline")  # both bring the same parts beside it
INDEX = "model_index.json"
MODELS = {
    Role.TEXT_ENCODER: "model.safetensors",
    Role.TEXT_ENCODER_2: "model.safetensors",
    Role.VAE: "diffusion_pytorch_model.safetensors",
}
PACKED = "model.gguf"
# What tokenizers and schedulers are read from; whatever else lies there is left behind.
WORDS = {".json", ".txt", ".model"}
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
MAX_CONFIG_BYTES = 64 * 1024 * 1024  # the largest is T5's tokenizer.json, of 2.4 MB
_FROM = "download FLUX.1-Kontext-dev's folder again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file to make: from one that was downloaded, or from several shards of one model."""

    path: str
    role: Role
    sources: tuple[Path, ...]


def find_parts(transformer: Path, encoder: Sequence[Path], folder: Path) -> tuple[Part, ...]:
    """Choose the files of a weights directory, by their names alone; nothing is read but JSON.

    Without an `encoder` the folder's own T5 is taken. Raises WeightsMissing, WeightsDamaged or
    WrongWeights, naming what is not there or is there in a form that no loader reads.
    """
    if not folder.is_dir():
        raise WeightsMissing(f"{folder}: no folder; name the one that holds {INDEX}")
    _check_pipeline(folder / INDEX)
    if transformer.suffix != ".gguf":
        raise WrongWeights(
            f"{transformer}: not a .gguf file; the transformer is drawn with as GGUF, "
            "download one of FLUX.1-Kontext-dev"
        )
    return (
        Part(path=INDEX, role=Role.INDEX, sources=(folder / INDEX,)),
        *_words(folder, Role.SCHEDULER, ("scheduler_config.json",)),
        *_words(folder, Role.TOKENIZER, ("tokenizer_config.json",)),
        *_words(folder, Role.TOKENIZER_2, ("tokenizer_config.json",)),
        _config(folder, Role.TEXT_ENCODER),
        _model(folder, Role.TEXT_ENCODER),
        _config(folder, Role.VAE),
        _model(folder, Role.VAE),
        _config(folder, Role.TEXT_ENCODER_2),
        _encoder(encoder or _shards(folder)),
        _config(folder, Role.TRANSFORMER),
        Part(path=f"{Role.TRANSFORMER}/{PACKED}", role=Role.TRANSFORMER, sources=(transformer,)),
    )


def _check_pipeline(index: Path) -> None:
    found = _read_json(index)
    class_ = found.get("_class_name")
    if class_ not in PIPELINES:
        raise WrongWeights(
            f"{index}: is of {class_!r:.80}, not {PIPELINES[0]}; illo draws with "
            "FLUX.1-Kontext-dev: name its folder instead"
        )


def _words(folder: Path, role: Role, required: Sequence[str]) -> tuple[Part, ...]:
    for name in required:
        _require(folder / role / name)
    names = sorted(
        path.name for path in (folder / role).iterdir() if path.suffix in WORDS and path.is_file()
    )
    return tuple(
        Part(path=f"{role}/{name}", role=role, sources=(_small(folder / role / name),))
        for name in names
    )


def _config(folder: Path, role: Role) -> Part:
    path = f"{role}/config.json"
    return Part(path=path, role=role, sources=(_small(_require(folder / path)),))


def _model(folder: Path, role: Role) -> Part:
    name = MODELS[role]
    if not (folder / role / name).is_file():
        raise WeightsMissing(_instead_of(folder / role / name))
    return Part(path=f"{role}/{name}", role=role, sources=(folder / role / name,))


def _shards(folder: Path) -> tuple[Path, ...]:
    whole = folder / Role.TEXT_ENCODER_2 / MODELS[Role.TEXT_ENCODER_2]
    if whole.is_file():
        return (whole,)
    index = whole.with_name(f"{whole.name}.index.json")
    if not index.is_file():
        raise WeightsMissing(f"{_instead_of(whole)}, or give a T5 with --t5")
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise WeightsDamaged(f"{index}: its weight_map names no files; {_FROM}")
    shards = tuple(whole.with_name(Path(name).name) for name in sorted(set(listed.values())))
    return tuple(_require(shard) for shard in shards)


def _encoder(files: Sequence[Path]) -> Part:
    for file in files:
        if not file.is_file():
            raise WeightsMissing(f"{file}: no such file; download it or correct the path")
        if file.suffix in PICKLES:
            raise WrongWeights(f"{file}: pickled, which may hold code; {_safe(file)}")
    kinds = {file.suffix for file in files}
    role = Role.TEXT_ENCODER_2
    if kinds == {".gguf"} and len(files) == 1:
        return Part(path=f"{role}/{PACKED}", role=role, sources=tuple(files))
    if kinds == {".safetensors"}:
        return Part(path=f"{role}/{MODELS[role]}", role=role, sources=tuple(files))
    raise WrongWeights(
        f"{', '.join(file.name for file in files)}: not one T5; give one .gguf file, or all "
        ".safetensors files of it"
    )


def _instead_of(wanted: Path) -> str:
    """Say that a model is missing, and which form of it is there instead."""
    there = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    pickled = [path.name for path in there if path.suffix in PICKLES]
    variants = [path.name for path in there if path.suffix == ".safetensors"]
    if variants:
        return (
            f"{wanted}: not there, but {variants[0]}, a variant that no loader looks for; "
            f"download {wanted.name}"
        )
    if pickled:
        return (
            f"{wanted}: not there, but {pickled[0]}, pickled, which may hold code; {_safe(wanted)}"
        )
    return f"{wanted}: not there; {_FROM}"


def _safe(file: Path) -> str:
    return f"download the .safetensors of {file.parent.name or 'it'} instead"


def _require(path: Path) -> Path:
    if not path.is_file():
        raise WeightsMissing(f"{path}: not there; {_FROM}")
    return path


def _small(path: Path) -> Path:
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise WeightsDamaged(f"{path}: {size} bytes are too many for a config; {_FROM}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    _small(_require(path))
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise WeightsDamaged(f"{path}: not JSON; {_FROM}") from None
    if not isinstance(found, dict):
        raise WeightsDamaged(f"{path}: no table; {_FROM}")
    return found
