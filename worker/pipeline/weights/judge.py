"""Decide from headers and configs whether downloads make weights to draw with, and call them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.manifest import Expects, Role
from worker.pipeline.weights.downloads import Part
from worker.pipeline.weights.gguf_header import GgufHeader, read_header
from worker.pipeline.weights.inspect import origin_of
from worker.pipeline.weights.layout import OpenedFile
from worker.pipeline.weights.placing import joined_bytes
from worker.pipeline.weights.safetensors_header import SafetensorsHeader, read_safetensors_header
from worker.pipeline.weights.transformer_check import read_sizes
from worker.pipeline.weights.verdict import check_weights

MODEL = "FLUX.1-Kontext-dev"
FULL_SIZE = Expects(in_channels=64, blocks=(19, 38), inner_dim=3072)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Downloads that have passed: what will be made of them, under which label."""

    parts: tuple[Part, ...]
    bytes: Mapping[str, int]
    quantizations: Mapping[str, str]
    shards: Mapping[str, tuple[SafetensorsHeader, ...]]
    expects: Expects
    label: str
    origin: str | None


def judge(parts: tuple[Part, ...], folder: Path, label: str | None) -> Judged:
    """Hold the headers against the folder's configs; without a label the header gives one.

    Raises WrongWeights, WeightsDamaged or WeightsMissing naming file, tensor and remedy.
    """
    config = folder / Role.TRANSFORMER / "config.json"
    sizes = read_sizes(config)
    expects = Expects(
        in_channels=sizes.in_channels,
        blocks=(sizes.double_blocks, sizes.single_blocks),
        inner_dim=sizes.inner,
    )
    packed = {
        part.path: read_header(part.sources[0]) for part in parts if part.path.endswith(".gguf")
    }
    shards = {
        part.path: tuple(read_safetensors_header(source) for source in part.sources)
        for part in parts
        if part.path.endswith(".safetensors")
    }
    check_weights(folder, _opened(parts, packed, shards), expects)
    (transformer,) = (
        packed[part.path] for part in parts if part.role is Role.TRANSFORMER and part.path in packed
    )
    return Judged(
        parts=parts,
        bytes={part.path: _size(part, shards) for part in parts},
        quantizations={path: quantization_of(header) for path, header in packed.items()},
        shards=shards,
        expects=expects,
        label=label or label_for(transformer, expects),
        origin=origin_of(config),
    )


def quantization_of(header: GgufHeader) -> str:
    """Name the type that most of a file's bytes are stored in."""
    sizes: Counter[str] = Counter()
    for tensor in header.tensors.values():
        sizes[tensor.type.name] += tensor.bytes
    return sizes.most_common(1)[0][0]


def label_for(transformer: GgufHeader, expects: Expects) -> str:
    """Call weights by their model, and by the type of most of its bytes."""
    named = transformer.metadata.get("general.name")
    model = MODEL if expects == FULL_SIZE or not isinstance(named, str) else named
    return f"{model[:96]} {quantization_of(transformer)}"


def _opened(
    parts: Iterable[Part],
    packed: Mapping[str, GgufHeader],
    shards: Mapping[str, tuple[SafetensorsHeader, ...]],
) -> list[OpenedFile]:
    roles = {part.path: part.role for part in parts}
    whole = [OpenedFile(role=roles[path], header=header) for path, header in packed.items()]
    return whole + [
        OpenedFile(role=roles[path], header=header)
        for path, headers in shards.items()
        for header in headers
    ]


def _size(part: Part, shards: Mapping[str, tuple[SafetensorsHeader, ...]]) -> int:
    if len(part.sources) > 1:
        return joined_bytes(shards[part.path])
    return part.sources[0].stat().st_size
