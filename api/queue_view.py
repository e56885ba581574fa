"""Say where in the queue a job stands, why it waits and when it will be done."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean

from shared.holds import why_held
from shared.jobs import Job
from shared.ports import Ahead
from shared.settings import Settings
from shared.vocabulary import Status
from shared.wiring import Backends
from shared.workers import WorkerRecord, WorkerState, alive, starts_blocked


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a job stands: 1 goes next, 0 is being drawn; what cannot be told is none."""

    position: int | None
    reason: str | None
    start: datetime | None = None
    finish: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What all waiting jobs have in common."""

    now: datetime
    stopped: str | None  # why nothing new is drawn, or no worker is started
    workers: tuple[WorkerRecord, ...]


def read_standing(backends: Backends, settings: Settings) -> Standing:
    """Look at the operator's switch, the day's ceiling and the workers."""
    now = backends.workers.now()
    records, control = backends.workers.records(), backends.workers.control()
    held = why_held(backends.jobs, backends.workers, settings)
    blocked = starts_blocked(records, control, now, source=settings.weights)
    return Standing(now=now, stopped=held or blocked, workers=alive(records, now))


def place_of(job: Job, ahead: Ahead | None, standing: Standing) -> Place | None:
    """Find a job's place; without `ahead`, as in lists, only the reason. Ended jobs have none."""
    if job.status is Status.RUNNING:
        return Place(
            position=0, reason=None, start=job.claimed_at, finish=_finish_of(job, standing)
        )
    if job.status is not Status.QUEUED:
        return None
    if ahead is None:
        return Place(position=None, reason=reason_of(job, None, standing))
    start, finish = _eta_of(job, ahead, standing)
    return Place(
        position=ahead.jobs + 1,
        reason=reason_of(job, ahead, standing),
        start=start,
        finish=finish,
    )


def reason_of(job: Job, ahead: Ahead | None, standing: Standing) -> str | None:
    """Say why a queued job is not being drawn yet."""
    if standing.stopped:
        return standing.stopped
    if job.not_before > standing.now:
        return f"the next attempt is due at {job.not_before.isoformat(timespec='seconds')}"
    if not standing.workers:
        return "no worker has been heard of lately; it is drawn when one starts"
    if all(worker.state is WorkerState.STARTING for worker in standing.workers):
        first = max(standing.workers, key=lambda worker: worker.fraction)
        stage = f": {first.stage} {first.fraction:.0%}".replace("%", " %") if first.stage else ""
        return f"a worker is starting{stage}"
    if ahead is None:
        return None
    if ahead.jobs:
        return f"waiting behind {ahead.jobs} {'job' if ahead.jobs == 1 else 'jobs'}"
    return "next in turn"


def _eta_of(
    job: Job, ahead: Ahead, standing: Standing
) -> tuple[datetime, datetime] | tuple[None, None]:
    pace, lanes = _pace(standing), len(_drawing(standing))
    if standing.stopped or pace is None or not lanes:
        return None, None
    start = standing.now + timedelta(seconds=ahead.megapixel_steps * pace / lanes)
    start = max(start, job.not_before)
    return start, start + timedelta(seconds=job.scene.megapixel_steps * pace)


def _finish_of(job: Job, standing: Standing) -> datetime | None:
    pace = _pace(standing)
    if pace is None:
        return None
    left = 1 - (job.progress.fraction if job.progress else 0)
    return standing.now + timedelta(seconds=job.scene.megapixel_steps * left * pace)


def _pace(standing: Standing) -> float | None:
    told = [worker.seconds_per_megapixel_step for worker in standing.workers]
    known = [seconds for seconds in told if seconds is not None]
    return fmean(known) if known else None


def _drawing(standing: Standing) -> list[WorkerRecord]:
    ready = (WorkerState.IDLE, WorkerState.DRAWING)
    return [worker for worker in standing.workers if worker.state in ready]
