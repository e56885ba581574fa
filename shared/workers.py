"""What workers tell about themselves, the operator's switch, and when to stop starting more."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shared.scenes import Weights

FAILED_STARTS = 3
START_TIMEOUT = timedelta(seconds=600)  # a start that has said nothing for so long has died
# Whoever ends a start that has taken so long has lost patience with it: Cloud Run after its probes.
# Who ends one sooner had another reason: somebody at a terminal, or a new revision.
GIVEN_UP_AFTER = timedelta(seconds=120)
SEEN_WITHIN = timedelta(seconds=90)  # a worker silent for longer is not shown as alive


class WorkerState(StrEnum):
    """What a worker is doing."""

    STARTING = "starting"
    IDLE = "idle"
    DRAWING = "drawing"
    DRAINING = "draining"
    BROKEN = "broken"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One process of a worker; it writes this also before it is ready."""

    id: str
    state: WorkerState
    started_at: datetime
    at: datetime
    source: str  # ILLO_WEIGHTS as the worker was given it
    stage: str = ""
    fraction: float = 0.0
    error: str = ""
    job: str | None = None
    weights: Weights | None = None  # known once they are loaded
    device: str | None = None
    memory_bytes: int | None = None
    seconds_per_megapixel_step: float | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueControl:
    """The operator's switch: while paused, nothing new is claimed."""

    paused: bool = False
    reason: str = ""
    changed_at: datetime | None = None
    resumed_at: datetime | None = None


def pause(control: QueueControl, now: datetime, *, reason: str) -> QueueControl:
    """Claim nothing new; what is being drawn goes on."""
    return QueueControl(paused=True, reason=reason, changed_at=now, resumed_at=control.resumed_at)


def resume(control: QueueControl, now: datetime) -> QueueControl:
    """Claim again, and forgive the failed starts so far."""
    return QueueControl(changed_at=now, resumed_at=now)


def failed_starts(
    records: Sequence[WorkerRecord], control: QueueControl, now: datetime, *, source: str
) -> tuple[WorkerRecord, ...]:
    """List the failed starts in a row, newest first: of these weights, since the last resume."""
    failed = []
    for record in sorted(records, key=lambda record: record.started_at, reverse=True):
        forgiven = control.resumed_at is not None and record.started_at <= control.resumed_at
        if record.source != source or forgiven:
            break
        if record.state is WorkerState.STARTING and now - record.at < START_TIMEOUT:
            continue
        if not _failed_to_start(record):
            break
        failed.append(record)
    return tuple(failed)


def _failed_to_start(record: WorkerRecord) -> bool:
    """Judge one that is starting no more; one that broke after it was ready had started well."""
    if record.weights is not None:
        return False
    given_up = record.at - record.started_at >= GIVEN_UP_AFTER
    broken = record.state in (WorkerState.BROKEN, WorkerState.STARTING)
    return broken or (record.state is WorkerState.STOPPED and given_up)


def starts_blocked(
    records: Sequence[WorkerRecord], control: QueueControl, now: datetime, *, source: str
) -> str | None:
    """Say why no worker should be woken any more, or None while it is worth trying."""
    failed = failed_starts(records, control, now, source=source)
    if len(failed) < FAILED_STARTS:
        return None
    last = failed[0]
    ended = last.state is WorkerState.STOPPED
    how = "was ended before it was ready" if ended else "vanished while starting"
    cause = last.error or f"it {how}"
    return f"the last {len(failed)} starts of a worker failed: {cause}"


def alive(records: Sequence[WorkerRecord], now: datetime) -> tuple[WorkerRecord, ...]:
    """List the workers that were heard of lately and have not ended."""
    ended = (WorkerState.BROKEN, WorkerState.STOPPED)
    return tuple(r for r in records if r.state not in ended and now - r.at <= SEEN_WITHIN)
