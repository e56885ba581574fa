"""Describe weights from their headers alone: a directory or one GGUF file, without torch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import WeightsError, WeightsMissing, WrongWeights
from shared.manifest import Manifest, WeightsFile, read_manifest
from worker.pipeline.weights.configs import read_config
from worker.pipeline.weights.files import check_files
from worker.pipeline.weights.flux_shapes import Naming, naming_of
from worker.pipeline.weights.gguf_header import GgufHeader, read_header
from worker.pipeline.weights.layout import OpenedFile
from worker.pipeline.weights.safetensors_header import (
    SafetensorsHeader,
    read_safetensors_header,
)
from worker.pipeline.weights.t5_check import (
    check_packed_encoder,
    fitting_encoder_sizes,
    is_encoder,
    sizes_in,
)
from worker.pipeline.weights.transformer_check import CHANNELS, model_of, unprefixed
from worker.pipeline.weights.verdict import check_weights, files_in_order

MAX_ORIGIN = 256  # characters; it is a repository's name, or a path
_UNKNOWN = "this is no model that illo knows"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufInspection:
    """What one GGUF file says: `quantizations` counts tensors, `image_input` is rows first."""

    path: str
    label: str | None
    architecture: str | None
    tensors: int
    parameters: int
    quantizations: Mapping[str, int]
    image_input: tuple[int, ...] | None
    image_input_type: str | None
    blocks: tuple[int, int] | None
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found at a path; `problem` is None when illo could draw with it."""

    path: str
    label: str | None = None
    sha256: str | None = None
    bytes: int = 0
    files: tuple[WeightsFile, ...] = ()
    gguf: tuple[GgufInspection, ...] = ()
    problem: str | None = None


def inspect_weights(path: Path) -> Inspection:
    """Describe a weights directory or one GGUF file; what is wrong becomes its `problem`.

    Reads headers, names and sizes only, so it takes a second at most and no digest is checked.
    Raises WeightsMissing if nothing lies at the path.
    """
    if path.is_dir():
        return _inspect_directory(path)
    if path.is_file():
        return _inspect_file(path)
    raise WeightsMissing(f"{path}: neither a weights directory nor a file; correct the path")


def describe_gguf(header: GgufHeader) -> GgufInspection:
    """Sum up a header that has passed `read_header`."""
    tensors = unprefixed(header)
    naming = naming_of(tensors)
    image_input = None if naming is None else tensors[naming.image_input]
    return GgufInspection(
        path=str(header.path),
        label=_text(header, "general.name"),
        architecture=_text(header, "general.architecture"),
        tensors=len(tensors),
        parameters=sum(_elements(tensor.shape) for tensor in tensors.values()),
        quantizations=dict(Counter(tensor.type.name for tensor in tensors.values())),
        image_input=None if image_input is None else image_input.shape,
        image_input_type=None if image_input is None else image_input.type.name,
        blocks=None if naming is None else _blocks(tensors, naming),
        verdict=_verdict(header, None if image_input is None else image_input.shape),
    )


def header_facts(header: GgufHeader, *, config: Path) -> dict[str, object]:
    """Sum up a header as the fields of one log event.

    `config` lies beside the file; of what it says about its origin only a short text is believed.
    """
    found = describe_gguf(header)
    return {
        "file": found.path,
        "architecture": found.architecture,
        "tensors": found.tensors,
        "parameters": found.parameters,
        "quantizations": dict(found.quantizations),
        "img_in": None if found.image_input is None else list(found.image_input),
        "img_in_type": found.image_input_type,
        "name": found.label,
        "name_or_path": origin_of(config),
    }


def origin_of(config: Path) -> str | None:
    """Read `_name_or_path` of a config, where its writer had the weights from; None without."""
    try:
        origin = read_config(config).get("_name_or_path")
    except (OSError, ValueError):
        return None  # whoever loads the config says what is wrong with it
    return origin[:MAX_ORIGIN] if isinstance(origin, str) and origin else None


def _inspect_file(path: Path) -> Inspection:
    described: GgufInspection | None = None
    problem: str | None = None
    try:
        header = read_header(path)
        described = describe_gguf(header)
        if described.verdict == _UNKNOWN or (
            described.image_input is not None and described.image_input[-1] != CHANNELS
        ):
            problem = f"{path}: {described.verdict}; illo draws with FLUX.1-Kontext-dev"
        elif described.image_input is None:
            check_packed_encoder(header, sizes_in(header))
    except WeightsError as error:
        problem = str(error)
    return Inspection(
        path=str(path),
        label=described.label if described else None,
        bytes=path.stat().st_size,
        gguf=(described,) if described else (),
        problem=problem,
    )


def _inspect_directory(directory: Path) -> Inspection:
    described: list[GgufInspection] = []
    manifest: Manifest | None = None
    problem: str | None = None
    try:
        manifest = read_manifest(directory)
        large = files_in_order(str(directory), manifest)
        check_files(directory, manifest)
        fitting_encoder_sizes(directory)  # before headers, as a worker does
        opened = []
        for file in large:
            header = _read_header(directory / file.path)
            if isinstance(header, GgufHeader):
                described.append(describe_gguf(header))
            opened.append(OpenedFile(role=file.role, header=header))
        check_weights(directory, opened, manifest.expects)
    except WeightsError as error:
        problem = str(error)
    return Inspection(
        path=str(directory),
        label=manifest.label if manifest else None,
        sha256=manifest.sha256 if manifest else None,
        bytes=sum(file.bytes for file in manifest.files) if manifest else 0,
        files=manifest.files if manifest else (),
        gguf=tuple(described),
        problem=problem,
    )


def _read_header(path: Path) -> GgufHeader | SafetensorsHeader:
    return read_header(path) if path.suffix == ".gguf" else read_safetensors_header(path)


def _text(header: GgufHeader, key: str) -> str | None:
    found = header.metadata.get(key)
    return found if isinstance(found, str) else None


def _elements(shape: tuple[int, ...]) -> int:
    elements = 1
    for side in shape:
        elements *= side
    return elements


def _blocks(tensors: Mapping[str, object], naming: Naming) -> tuple[int, int]:
    stems = ("transformer_blocks.", "single_transformer_blocks.")
    if naming is Naming.ORIGINAL:
        stems = ("double_blocks.", "single_blocks.")
    found: list[set[str]] = [
        {name.split(".")[1] for name in tensors if name.startswith(stem)} for stem in stems
    ]
    return len(found[0]), len(found[1])


def _verdict(header: GgufHeader, image_input: tuple[int, ...] | None) -> str:
    if image_input is not None:
        return f"with {image_input[-1]} channels this is {model_of(image_input[-1])}"
    if not is_encoder(header):
        return _UNKNOWN
    try:
        sizes = sizes_in(header)
    except WrongWeights:
        return "this is a T5 text encoder, or a part of one"
    return f"this is a T5 text encoder of {sizes.layers} blocks and width {sizes.width}"
