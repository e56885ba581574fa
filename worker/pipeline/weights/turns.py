"""A fetch's ranges as they stand: how far each has come, and the requests that are made for it."""

from dataclasses import dataclass, field

from worker.pipeline.weights.ranges import Range
from worker.pipeline.weights.sources import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a range is asked for again, and when it is given up; all times in seconds."""

    tries: int = 8
    first_pause: float = 0.05
    longest_pause: float = 4.0
    slow: float = 4.0  # times the median
    slow_at_least: float = 0.5
    known: int = 3  # ranges that must have come before one can be called slow
    hedges: int = 4  # at once; each holds a range in memory
    longest: float = 60.0  # for one request, however steadily it trickles


@dataclass(slots=True, kw_only=True, eq=False)
class Turn:
    """One request for what is left of a range, from `start` on, where the checksum is `crc`."""

    number: int
    file: int
    range: Range
    start: int
    crc: int
    hedge: bool
    connection: Connection
    began: float
    stopped: bool = False
    writing: bool = False


@dataclass(slots=True)
class State:
    """How far a range has come; `position` and `crc` are those of the bytes in the buffer."""

    file: int
    range: Range
    position: int
    crc: int = 0
    failures: int = 0
    due: float = 0.0
    settled: bool = False
    complete: bool = False
    turns: list[Turn] = field(default_factory=list)
