"""Read the header of a safetensors file within bounds, with the standard library only."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from shared.errors import WeightsDamaged, WeightsMissing
from worker.pipeline.weights.gguf_cursor import Readable

MAX_HEADER_BYTES = 8 * 1024 * 1024  # T5's has 40 KB
MAX_DIMS = 8
MAX_NUMBER = 2**48  # of a shape or a place
LENGTH_BYTES = 8
NOTES = "__metadata__"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor's type, shape and place; the place counts from the start of the file."""

    type: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """What a safetensors file says about itself."""

    path: Path | str
    notes: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read and check one file's header; its tensors fill the file, without a gap or an overlap.

    Raises WeightsMissing if there is no such file, WeightsDamaged if any bound is broken.
    """
    try:
        with path.open("rb") as file:
            return read_safetensors_header_at(path, file, os.fstat(file.fileno()).st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsMissing(f"{path}: no such file; download it or correct the path") from None
    except OSError as error:
        raise WeightsDamaged(f"{path}: cannot be read: {error.strerror}") from None


def read_safetensors_header_at(path: Path | str, file: Readable, size: int) -> SafetensorsHeader:
    """Read and check a header wherever it lies; the next byte that is read is the first tensor's.

    Raises WeightsDamaged if any bound is broken.
    """
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
        _refuse(path, "not a safetensors file, or a truncated one")
    try:
        listed = json.loads(file.read(length))
    except (ValueError, RecursionError):
        _refuse(path, "its header is not JSON")
    if not isinstance(listed, dict):
        _refuse(path, "its header lists no tensors")
    notes = listed.pop(NOTES, {})
    if not isinstance(notes, dict):
        _refuse(path, f"its {NOTES} is no table")
    begin = LENGTH_BYTES + length
    tensors = {name: _tensor(path, name, entry, begin) for name, entry in listed.items()}
    _check_places(path, tensors, begin, size)
    return SafetensorsHeader(
        path=path,
        notes=MappingProxyType({str(key): str(value) for key, value in notes.items()}),
        tensors=MappingProxyType(tensors),
    )


def _tensor(path: Path | str, name: str, entry: Any, begin: int) -> StoredTensor:
    try:
        type_, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        bits, numbers = _BITS[type_], [*shape, start, stop]
    except (KeyError, TypeError, ValueError):
        _refuse(path, f"tensor {name!r:.80} is described as nothing that is known")
    # bounded before they are multiplied, or written into a message
    if len(numbers) > MAX_DIMS + 2 or not all(
        type(number) is int and 0 <= number <= MAX_NUMBER for number in numbers
    ):
        _refuse(path, f"tensor {name!r:.80} has a shape or a place that cannot be")
    size = prod(shape) * bits // 8
    if stop - start != size:
        _refuse(path, f"tensor {name!r:.80} has {stop - start} bytes, expected {size}")
    return StoredTensor(type=type_, shape=tuple(shape), start=begin + start, stop=begin + stop)


def _check_places(
    path: Path | str, tensors: Mapping[str, StoredTensor], begin: int, size: int
) -> None:
    end = begin
    for name, tensor in sorted(tensors.items(), key=lambda each: (each[1].start, each[1].stop)):
        if tensor.start != end:
            _refuse(path, f"tensor {name!r:.80} begins at {tensor.start}, expected {end}")
        end = tensor.stop
    if end != size:
        _refuse(path, f"its tensors end at {end}, the file at {size}: truncated, or continued")


def _refuse(path: Path | str, reason: str) -> NoReturn:
    raise WeightsDamaged(f"{path}: {reason}; download the file again")
