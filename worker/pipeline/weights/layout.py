"""Which tensor of which file lies where: every model has an arena, its tensors follow each other.

The layout is computed alike by whoever fetches and by whoever builds the models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.manifest import Role
from worker.pipeline.weights.gguf_header import GgufHeader
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.safetensors_header import SafetensorsHeader
from worker.pipeline.weights.t5_check import of_decoder

ALIGNMENT = 64  # as torch aligns its own tensors, so that kernels see no difference
# Small ones first: building them takes more work per byte, which is done while the rest comes. The
# transformer last: it is built of views alone, so that next to nothing is left after the last byte.
ORDER = (Role.TEXT_ENCODER, Role.VAE, Role.TEXT_ENCODER_2, Role.TRANSFORMER)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedFile:
    """A file of tensors whose header was judged."""

    role: Role
    header: GgufHeader | SafetensorsHeader
    sha256: str | None = None  # of the whole file, where a manifest says it

    @property
    def packed(self) -> bool:
        """Whether it is GGUF."""
        return isinstance(self.header, GgufHeader)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a tensor's bytes lie in its model's arena."""

    at: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything lies: arenas by model, tensors by model and name, spans by file."""

    arena_bytes: Mapping[Role, int]
    tensors: Mapping[Role, Mapping[str, Slot]]
    spans: tuple[tuple[Span, ...], ...]


def lay_out(files: Sequence[OpenedFile]) -> Layout:
    """Give each tensor its place; the files must be in the wanted order."""
    ends: dict[Role, int] = {}
    tensors: dict[Role, dict[str, Slot]] = {}
    spans = []
    for file in files:
        of_file = []
        for name, start, stop in _stored(file):
            at = -(-ends.get(file.role, 0) // ALIGNMENT) * ALIGNMENT
            ends[file.role] = at + stop - start
            tensors.setdefault(file.role, {})[name] = Slot(at, stop - start)
            of_file.append(Span(start, stop, at))
        spans.append(tuple(of_file))
    return Layout(arena_bytes=ends, tensors=tensors, spans=tuple(spans))


def _stored(file: OpenedFile) -> list[tuple[str, int, int]]:
    """List names and places in the order of the file: it is read forward, without jumps."""
    if isinstance(file.header, SafetensorsHeader):
        plain = file.header.tensors.items()
        listed = [(name, tensor.start, tensor.stop) for name, tensor in plain]
    else:
        listed = [
            (name, tensor.offset, tensor.offset + tensor.bytes)
            for name, tensor in file.header.tensors.items()
            if not (file.role is Role.TEXT_ENCODER_2 and of_decoder(name))
        ]
    return sorted(listed, key=lambda each: each[1:])
