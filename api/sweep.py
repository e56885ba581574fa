"""The sweep: finish what messages, workers and requests have left undone."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from api.alone import alone
from api.batch_takes import WAKES_PER_WORKER
from api.expand import finish_batches
from api.tidy import clean_up, drop_uploads, retire
from shared.errors import (
    ArtifactError,
    IlloError,
    JobNotDue,
    JobNotFound,
    PublishFailed,
    StoreError,
    StoreUnavailable,
)
from shared.holds import why_not_woken
from shared.jobs import Job, expire, lease_is_over, wake, wake_thief
from shared.messages import Wake
from shared.settings import Settings
from shared.turns import in_turn
from shared.vocabulary import Status
from shared.wiring import Backends

PAGE = 200
LOOK_AGAIN = 0.5  # seconds between two looks at whether the end has come

Woken = tuple[int, str | None]
Result = TypeVar("Result")
_NOT_WOKEN: Woken = (0, None)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What one sweep did; `unfinished` when it stopped at a page and should go on at once."""

    ended: int = 0
    woken: int = 0
    expanded: int = 0
    cleaned: int = 0
    retired: int = 0
    uploads: int = 0
    unfinished: bool = False
    held: str | None = None

    @property
    def repaired(self) -> int:
        """How many things were put right."""
        return self.ended + self.woken + self.expanded + self.cleaned + self.retired + self.uploads


def sweep_once(backends: Backends, settings: Settings) -> SweepReport:
    """Repair a page of everything; two sweeps at once do nothing twice.

    A fault of one job, batch or upload is logged, and the sweep goes on. Raises StoreUnavailable if
    the store is away: the next sweep goes on where this one stopped.
    """
    now, retention = backends.workers.now(), settings.retention
    ended = _done("end", partial(_end, backends, settings), 0)
    woken, held = _done("wake", partial(_wake, backends, settings), _NOT_WOKEN)
    expanded, unfinished = _done(
        "finish_batches", partial(finish_batches, backends, settings), (0, False)
    )
    retired = _done(
        "retire", partial(retire, backends, now=now, retention=retention, limit=PAGE), 0
    )
    cleaned = _done("clean_up", partial(clean_up, backends, limit=PAGE), 0)
    uploads = _done("drop_uploads", partial(drop_uploads, backends, now=now, limit=PAGE), 0)
    return SweepReport(
        ended=ended, woken=woken, expanded=expanded, cleaned=cleaned, retired=retired,
        uploads=uploads, unfinished=unfinished, held=held,
    )  # fmt: skip


def run_sweeps(
    backends: Backends,
    settings: Settings,
    stop: threading.Event,
    nudge: threading.Event | None = None,
) -> None:
    """Sweep until `stop` is set, every `sweep_seconds` and as soon as `nudge` is set.

    A store that is away ends one sweep, never the thread.
    """
    nudged = nudge or threading.Event()
    while not stop.is_set():
        nudged.clear()
        if not _swept(backends, settings):
            _rest(settings.sweep_seconds, stop, nudged)


def _rest(seconds: float, stop: threading.Event, nudged: threading.Event) -> None:
    end = time.monotonic() + seconds
    while not stop.is_set() and (left := end - time.monotonic()) > 0:
        if nudged.wait(min(left, LOOK_AGAIN)):
            break


def _swept(backends: Backends, settings: Settings) -> bool:
    try:
        report = sweep_once(backends, settings)
    except IlloError as error:
        log.warning("sweep_failed", extra={"error": type(error).__name__, "detail": str(error)})
        return False
    if report.repaired:
        log.info("swept", extra=asdict(report))
    return report.unfinished


def _end(backends: Backends, settings: Settings) -> int:
    terms, now = settings.terms, backends.workers.now()
    late = backends.jobs.overdue(
        PAGE, queued_before=now - terms.max_queued, claimed_before=now - terms.max_runtime
    )
    change = partial(expire, terms=terms)
    candidates = [*late, *backends.jobs.silent(PAGE)]
    return sum(_changed(backends, job, change) for job in candidates)


def _wake(backends: Backends, settings: Settings) -> Woken:
    """Send a bounded number of wake-ups, and say why there are none if they are held back."""
    terms, now = settings.terms, backends.workers.now()
    silent = [
        job
        for job in backends.jobs.silent(PAGE)
        if lease_is_over(job, now, terms=terms) and job.wake_at <= now
    ]
    due = [*silent, *backends.jobs.wakeable(PAGE)]
    if not due:
        return 0, None
    held = why_not_woken(backends.jobs, backends.workers, settings)
    if held:
        return 0, held
    woken = 0
    for job in in_turn(due, WAKES_PER_WORKER * settings.workers):
        rule = partial(wake_thief, terms=terms) if job.status is Status.RUNNING else wake
        if not _changed(backends, job, rule):
            continue
        try:
            backends.publisher.publish(Wake(job=job.id))
        except PublishFailed:
            log.warning("wake_failed", extra={"job_id": job.id})
            break
        woken += 1
    return woken, None


def _changed(backends: Backends, job: Job, change: Callable[..., Job]) -> bool:
    with alone("job_not_swept", backends.workers, job_id=job.id):
        try:
            backends.jobs.update(job.id, change)
        except (JobNotDue, JobNotFound):  # somebody was faster, or it can still go on
            return False
        return True
    return False


def _done(duty: str, act: Callable[[], Result], nothing: Result) -> Result:
    """Do one of the sweep's duties; a fault of it is logged, unless the store is away."""
    try:
        return act()
    except StoreUnavailable:
        raise
    except (ArtifactError, StoreError) as error:
        event = {"duty": duty, "error": type(error).__name__, "detail": str(error)}
        log.warning("duty_failed", extra=event)
        return nothing
