"""Which unfinished jobs want something done: whose turn it is, and what has run out."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from shared.gcp import shapes
from shared.gcp.firestore import Fields, Firestore
from shared.gcp.job_documents import jobs_of
from shared.gcp.shapes import Shape
from shared.jobs import Job
from shared.vocabulary import Status

QUEUED, RUNNING = Status.QUEUED.value, Status.RUNNING.value
LOOK_AT = 40  # documents read at once: everything, as a rule, else some of the lines

Line = tuple[int, str]  # a priority's rank and a tenant: who stands in line with whom


def claimable(
    firestore: Firestore, *, now: datetime, lease_over: datetime, per_tenant: int
) -> list[Job]:
    """List the first due jobs of each line, then those whose lease was over at `lease_over`."""
    due = _lines(
        firestore, shapes.DUE, per_tenant, status=QUEUED, cancel_wished=False, not_before=now
    )
    lost = _lines(
        firestore,
        shapes.TO_STEAL,
        per_tenant,
        status=RUNNING,
        cancel_wished=False,
        lease_expires_at=lease_over,
    )
    stolen = sorted((job for line in lost for job in line), key=lambda job: job["lease_expires_at"])
    return jobs_of([*(job for line in due for job in line), *stolen])


def wakeable(firestore: Firestore, limit: int, *, now: datetime) -> list[Job]:
    """List queued jobs to be woken: the first of each line, then the second of each, and so on."""
    first = min(limit, LOOK_AT)
    lines = _lines(firestore, shapes.TO_WAKE, first, status=QUEUED, wake_at=now)
    places = [
        (place, job["rank"], job["created_at"], job["id"], job)
        for line in lines
        for place, job in enumerate(line)
    ]
    return jobs_of(job for *_, job in sorted(places, key=lambda one: one[:4])[:limit])


def silent(firestore: Firestore, limit: int, *, now: datetime) -> list[Job]:
    """See JobStore.silent."""
    ask = shapes.SILENT.ask(status=RUNNING, lease_expires_at=now, limit=limit)
    return jobs_of(firestore.run(ask))


def overdue(
    firestore: Firestore, limit: int, *, queued_before: datetime, claimed_before: datetime
) -> list[Job]:
    """See JobStore.overdue."""
    running = firestore.run(
        shapes.CLAIMED_BEFORE.ask(status=RUNNING, claimed_at=claimed_before, limit=limit)
    )
    left = limit - len(running)
    queued = firestore.run(
        shapes.CREATED_BEFORE.ask(status=QUEUED, created_at=queued_before, limit=left)
    )
    return jobs_of([*running, *queued])


def _lines(firestore: Firestore, shape: Shape, first: int, **values: Any) -> Iterator[list[Fields]]:
    """Read the first few of each line, jumping over the rest of those that are long.

    One call, while no more than LOOK_AT jobs are found; with more of them about one for each line
    that is long, whatever its length.
    """
    after: Line | None = None
    at_once = max(LOOK_AT, first)
    while True:
        page = firestore.run(shape.ask(limit=at_once, after=after, **values))
        more = len(page) == at_once
        for line, jobs in _by_line(page):
            # the last line of a page may go on behind it
            if len(jobs) < first and more and line == _line_of(page[-1]):
                break
            yield jobs[:first]
            after = line
        if not more:
            return


def _by_line(page: Sequence[Fields]) -> Iterator[tuple[Line, list[Fields]]]:
    for line, jobs in groupby(page, key=_line_of):
        yield line, list(jobs)


def _line_of(job: Fields) -> Line:
    return job["rank"], job["tenant"]
