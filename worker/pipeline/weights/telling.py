"""What the fetch process and the one that started it tell each other over a pipe."""

import copyreg
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from shared.errors import WeightsError
from shared.manifest import Role
from worker.pipeline.weights.fetch import Fetched
from worker.pipeline.weights.opening import Opened
from worker.pipeline.weights.rooms import Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Fetch these weights into this shared memory; `arenas` and `ring` are open files.

    The folder, where one is given, is for what small files a bucket has.
    The ring has so many slots of `range_bytes`.
    """

    place: str
    endpoint: str | None
    connections: int | None
    folder: Path | None
    arenas: Mapping[Role, int]
    ring: int
    slots: int
    range_bytes: int
    through_ring: bool | None  # None: where there is a CUDA device


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The headers are right, and the tensors are being fetched."""

    opened: Opened
    through_ring: bool


@dataclass(frozen=True, slots=True)
class Advanced:
    """So many of the tensors' bytes have come."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A slot of the ring holds bytes that belong into a model's arena; its number frees it."""

    slot: int
    role: Role
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """All of a model's bytes have come, and are those of the manifest."""

    role: Role


@dataclass(frozen=True, slots=True)
class Ended:
    """Everything was fetched."""

    fetched: Fetched


@dataclass(frozen=True, slots=True)
class Refused:
    """The weights cannot be used."""

    error: WeightsError


Told = Judged | Advanced | Filled | Whole | Ended | Refused


def send(pipe: Connection, message: Begin | Told | int) -> None:
    """Send one message; raises OSError when nobody listens any more."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(message)
    pipe.send_bytes(buffer.getbuffer())


class _Pickler(pickle.Pickler):
    """Knows what headers hold their tensors in; both ends are one program, nobody else writes."""

    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda mapping: (_read_only, (dict(mapping),))


def _read_only(mapping: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(mapping)
