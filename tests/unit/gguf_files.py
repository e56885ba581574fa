"""Write GGUF files by hand: whole ones, and broken ones that no writer would make."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

F32, Q8_0, BF16 = 0, 8, 30
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
ALIGNMENT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """One tensor as the file announces it; `dims` with the fastest axis first."""

    name: str | bytes
    dims: Sequence[int] = (32, 2)
    type: int = F32
    offset: int = 0


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def string(value: str) -> bytes:
    return struct.pack("<I", STRING) + text(value)


def uint32(value: int) -> bytes:
    return struct.pack("<II", UINT32, value)


def array(kind: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, length) + body


def gguf_bytes(
    tensors: Sequence[Info] = (),
    *,
    keys: Sequence[tuple[str | bytes, bytes]] = (),
    version: int = 3,
    magic: bytes = b"GGUF",
    tensor_count: int | None = None,
    key_count: int | None = None,
    payload: int = 0,
) -> bytes:
    """Pack a header, pad it to 32, and add so many bytes of tensors."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    head = magic + struct.pack("<IQQ", version, *counts)
    for key, value in keys:
        head += text(key) + value
    for tensor in tensors:
        head += text(tensor.name) + struct.pack("<I", len(tensor.dims))
        head += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
        head += struct.pack("<IQ", tensor.type, tensor.offset)
    return head + bytes(-len(head) % ALIGNMENT) + bytes(payload)


def write_transformer(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a whole file with zeros of these shapes: vectors in F32, matrices in Q8_0."""
    infos, end = [], 0
    for name, shape in shapes.items():
        kind = F32 if len(shape) == 1 else Q8_0
        elements = 1
        for side in shape:
            elements *= side
        size = elements * 4 if kind == F32 else elements // 32 * 34
        infos.append(Info(name=name, dims=shape[::-1], type=kind, offset=end))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    keys = [("general.architecture", string("flux"))]
    path.write_bytes(gguf_bytes(infos, keys=keys, payload=end))
