"""Read the header of a GGUF file within bounds, before anything else opens it.

Needs the standard library only. The reader of the gguf package takes 20 s and 3.7 GB on a hostile
file of 81 bytes, so nothing else may open a file that has not passed here.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from shared.errors import WeightsDamaged, WeightsMissing
from worker.pipeline.weights.gguf_cursor import MAX_STRING_BYTES, Cursor
from worker.pipeline.weights.gguf_types import GgufType, type_of

VERSIONS = (2, 3)
MAX_TENSORS = 4_096  # FLUX has 780 under its original names, 1,160 under those of diffusers
MAX_KEYS = 1_024
MAX_ARRAY_ELEMENTS = 1_000_000  # the header's limit bounds the sum over all arrays
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor's place and shape; the shape is decoded and in torch's order (rows first)."""

    name: str
    shape: tuple[int, ...]
    type: GgufType
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says about itself; offsets count from the start of the file."""

    path: Path | str
    version: int
    alignment: int
    metadata: Mapping[str, Scalar]
    tensors: Mapping[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of one file in under a second and 100 MB, whatever it contains.

    Raises WeightsMissing if there is no such file, WeightsDamaged if any bound is broken.
    """
    try:
        with path.open("rb") as file:
            return read_header_at(Cursor(path, file, os.fstat(file.fileno()).st_size))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsMissing(f"{path}: no such file; download it or correct the path") from None
    except OSError as error:
        raise WeightsDamaged(f"{path}: cannot be read: {error.strerror}") from None


def read_header_at(at: Cursor) -> GgufHeader:
    """Read and check a header wherever it lies; the cursor stands behind it then.

    Raises WeightsDamaged if any bound is broken.
    """
    if at.take(4, "the magic number") != b"GGUF":
        at.refuse("not a GGUF file (it does not start with 'GGUF')")
    version = int(at.number("I", "the version"))
    if version not in VERSIONS:
        big = " (big-endian files are not read)" if version & 0xFFFF == 0 else ""
        at.refuse(f"GGUF version {version}{big}; versions 2 and 3 are read")
    tensor_count = at.count("Q", MAX_TENSORS, "the number of tensors")
    key_count = at.count("Q", MAX_KEYS, "the number of metadata keys")
    metadata = _read_metadata(at, key_count)
    alignment = _alignment(at, metadata)
    listed = [_read_tensor(at, index) for index in range(tensor_count)]
    data_start = -(-at.position // alignment) * alignment
    return GgufHeader(
        path=at.path,
        version=version,
        alignment=alignment,
        metadata=MappingProxyType(metadata),
        tensors=MappingProxyType(_placed(at, listed, data_start, alignment)),
    )


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_STRING, _ARRAY = 8, 9


def _read_metadata(at: Cursor, count: int) -> dict[str, Scalar]:
    metadata: dict[str, Scalar] = {}
    seen: set[str] = set()
    for index in range(count):
        key = at.text(f"the name of metadata key {index}")
        if key in seen:
            at.refuse(f"metadata key {key!r:.80} appears twice")
        seen.add(key)
        what = f"metadata key {key!r:.80}"
        kind = int(at.number("I", f"the type of {what}"))
        if kind == _ARRAY:
            _skip_array(at, what)
        elif kind == _STRING:
            metadata[key] = at.text(what)
        elif kind in _SCALARS:
            metadata[key] = at.number(_SCALARS[kind], what)
        else:
            at.refuse(f"{what} has the unknown type {kind}")
    return metadata


def _skip_array(at: Cursor, what: str) -> None:
    kind = int(at.number("I", f"the element type of {what}"))
    length = at.count("Q", MAX_ARRAY_ELEMENTS, f"the length of {what}")
    if kind == _STRING:
        length_of = f"the length of a string in {what}"
        for _ in range(length):
            at.skip(at.count("Q", MAX_STRING_BYTES, length_of), what)
    elif kind in _SCALARS:
        at.skip(length * struct.calcsize("<" + _SCALARS[kind]), what)
    elif kind == _ARRAY:
        at.refuse(f"{what} is an array of arrays, which no weights need")
    else:
        at.refuse(f"{what} is an array of the unknown type {kind}")


def _alignment(at: Cursor, metadata: Mapping[str, Scalar]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        at.refuse(f"general.alignment is {alignment!r:.80}, not a power of two")
    return alignment


def _read_tensor(at: Cursor, index: int) -> GgufTensor:
    name = at.text(f"the name of tensor {index}")
    what = f"tensor {name!r:.80}"
    dims = [0] * at.count("I", MAX_DIMS, f"the number of dimensions of {what}")
    for axis in range(len(dims)):
        dims[axis] = int(at.number("Q", f"dimension {axis} of {what}"))
    number = int(at.number("I", f"the type of {what}"))
    offset = int(at.number("Q", f"the offset of {what}"))
    if not dims or 0 in dims:
        at.refuse(f"{what} has no elements (dimensions {dims})")
    type_ = type_of(number)
    if type_ is None:
        at.refuse(f"{what} has the unknown type {number}")
    if dims[0] % type_.block_elements:
        at.refuse(f"{what} has rows of {dims[0]}, not of whole {type_.name} blocks")
    size = type_.block_bytes * (dims[0] // type_.block_elements)
    for dim in dims[1:]:
        size *= dim
    # GGUF lists the fastest axis first, torch lists it last
    return GgufTensor(name=name, shape=tuple(dims[::-1]), type=type_, offset=offset, bytes=size)


def _placed(
    at: Cursor, listed: list[GgufTensor], data_start: int, alignment: int
) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for tensor in listed:
        what = f"tensor {tensor.name!r:.80}"
        if tensor.name in tensors:
            at.refuse(f"{what} appears twice")
        if tensor.offset % alignment:
            at.refuse(f"{what} lies at {tensor.offset}, not aligned to {alignment} bytes")
        tensors[tensor.name] = placed = replace(tensor, offset=data_start + tensor.offset)
        if placed.offset + placed.bytes > at.size:
            end = placed.offset + placed.bytes
            at.refuse(f"{what} ends at {end}, past the end of the file ({at.size} bytes)")
    by_offset = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in pairwise(by_offset):
        if before.offset + before.bytes > after.offset:
            at.refuse(f"tensors {before.name!r:.80} and {after.name!r:.80} overlap")
    return tensors
