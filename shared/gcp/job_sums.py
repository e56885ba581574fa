"""What is counted and summed up over jobs: from all that are unfinished while they are few."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from shared.gcp import shapes
from shared.gcp.firestore import Fields, Firestore, Sums
from shared.jobs import Job
from shared.ports import Ahead, QueueCount
from shared.vocabulary import Priority, Status

FEW = 50  # unfinished jobs that are read to count them; of more, Firestore counts each group
UNFINISHED = (Status.QUEUED, Status.RUNNING)
QUEUED, RUNNING = Status.QUEUED.value, Status.RUNNING.value

Age = tuple[datetime, str]


def counts(firestore: Firestore, tenant: str | None) -> list[QueueCount]:
    """See JobStore.counts."""
    of = {} if tenant is None else {"tenant": tenant}
    few = _if_few(firestore, of)
    if few is None:
        return list(_counted(firestore, of))
    groups = groupby(few, key=lambda job: (job["status"], job["rank"]))
    listed = [(status, rank, list(jobs)) for (status, rank), jobs in groups]
    return [
        _count(Status(status), rank, len(jobs), jobs[0]["created_at"])
        for status, rank, jobs in listed
    ]


def ahead(firestore: Firestore, job: Job) -> Ahead:
    """Sum up what goes before a queued job while the tenants of its priority take turns.

    Running jobs, higher priorities, its tenant's older jobs; and of every other tenant as many as
    get their turn before it: a newcomer does not wait for another's ten thousand scenes.
    """
    few = _if_few(firestore, {})
    if few is None:
        return _summed_ahead(firestore, job)
    others = [other for other in few if other["id"] != job.id]  # it may run by now
    return _total(*map(_work_of, _before(job, others)))


def gpu_seconds(firestore: Firestore, since: datetime) -> float:
    """See JobStore.gpu_seconds."""
    return firestore.sums(shapes.CHANGED_SINCE.ask(updated_at=since)).of["gpu_seconds"]


def batch_counts(firestore: Firestore, batch: str) -> Mapping[Status, int]:
    """See JobStore.batch_counts."""
    newest: dict[str, Any] = {"batch": batch, "superseded": False, "deleted": False}
    counted: dict[Status, int] = {}
    at: datetime | None = None
    for status in Status:  # all as of one instant, or a job that is just claimed counts twice
        asked = shapes.NEWEST_TAKES.ask(**newest, status=status.value)
        found = firestore.sums(asked, at=at)
        counted[status], at = found.count, found.at
    return {status: jobs for status, jobs in counted.items() if jobs}


def batch_gpu_seconds(firestore: Firestore, batch: str) -> float:
    """See JobStore.batch_gpu_seconds."""
    return firestore.sums(shapes.SPENT_ON_BATCH.ask(batch=batch)).of["gpu_seconds"]


# --- while there are few unfinished jobs ---------------------------------------------------------


def _if_few(firestore: Firestore, of: Mapping[str, Any]) -> list[Fields] | None:
    """Read all unfinished jobs, by status, rank and age; None if there are many."""
    select = ("id", "status", "rank", "tenant", "created_at", "megapixel_steps")
    shape = shapes.UNFINISHED["tenant" in of]
    found = firestore.run(shape.ask(final=False, **of, limit=FEW + 1, select=select))
    return found if len(found) <= FEW else None


def _before(job: Job, unfinished: list[Fields]) -> Iterator[Fields]:
    lines: dict[str, list[Fields]] = {job.tenant: []}
    for other in unfinished:
        if other["status"] == RUNNING or other["rank"] < job.priority.rank:
            yield other
        elif other["rank"] == job.priority.rank:
            lines.setdefault(other["tenant"], []).append(other)
    age = (job.created_at, job.id)
    own = [other for other in lines.pop(job.tenant) if _age_of(other) < age]
    yield from own
    for line in lines.values():
        yield from line[: len(own)]
        yield from (next for next in line[len(own) : len(own) + 1] if _age_of(next) < age)


def _age_of(job: Fields) -> Age:
    return job["created_at"], job["id"]


def _work_of(job: Fields) -> Ahead:
    return Ahead(jobs=1, megapixel_steps=job["megapixel_steps"])


# --- while there are many ------------------------------------------------------------------------


def _counted(firestore: Firestore, of: Mapping[str, Any]) -> Iterator[QueueCount]:
    shape = shapes.OF_RANK["tenant" in of]
    for status in UNFINISHED:
        for priority in Priority:
            group: dict[str, Any] = {"status": status.value, "rank": priority.rank, **of}
            oldest = firestore.run(shape.ask(**group, limit=1, select=("created_at",)))
            if oldest:
                jobs = firestore.sums(shape.ask(**group)).count
                yield _count(status, priority.rank, jobs, oldest[0]["created_at"])


def _summed_ahead(firestore: Firestore, job: Job) -> Ahead:
    line: dict[str, Any] = {"status": QUEUED, "rank": job.priority.rank}
    age = (job.created_at, job.id)
    running = firestore.sums(shapes.WORK_OF_STATUS.ask(status=RUNNING))
    urgent = firestore.sums(shapes.WORK_OF_RANKS.ask(**line))
    own = firestore.sums(shapes.WORK_IN_LINE.ask(**line, tenant=job.tenant, before=age))
    rivals = [
        _turns_before(firestore, own.count, age, {**line, "tenant": tenant})
        for tenant in _tenants(firestore, line)
        if tenant != job.tenant
    ]
    before = _total(*map(_ahead_of, (running, urgent, own, *rivals)))
    now = firestore.get(shapes.JOBS, job.id)
    if now is None or now["status"] != RUNNING:
        return before
    itself = _work_of(now)  # it runs by now, and was counted with those that do
    return Ahead(
        jobs=before.jobs - itself.jobs,
        megapixel_steps=before.megapixel_steps - itself.megapixel_steps,
    )


def _turns_before(firestore: Firestore, place: int, age: Age, line: Mapping[str, Any]) -> Sums:
    """Sum up another line's first jobs: as many as `place`, and the next one if it is older."""
    older = firestore.sums(shapes.WORK_IN_LINE.ask(**line, before=age, limit=place + 1))
    if older.count > place or not place:
        return older
    return firestore.sums(shapes.WORK_IN_LINE.ask(**line, limit=place))


def _tenants(firestore: Firestore, line: Mapping[str, Any]) -> Iterator[str]:
    """List who waits, by jumping along the index: ten thousand jobs of one tenant are one jump."""
    after: tuple[str] | None = None
    while found := firestore.run(
        shapes.LINES.ask(**line, after=after, limit=1, select=("tenant",))
    ):
        after = (found[0]["tenant"],)
        yield after[0]


def _ahead_of(sums: Sums) -> Ahead:
    return Ahead(jobs=sums.count, megapixel_steps=sums.of["megapixel_steps"])


def _count(status: Status, rank: int, jobs: int, oldest: datetime) -> QueueCount:
    return QueueCount(status=status, priority=list(Priority)[rank], jobs=jobs, oldest=oldest)


def _total(*parts: Ahead) -> Ahead:
    return Ahead(
        jobs=sum(part.jobs for part in parts),
        megapixel_steps=sum(part.megapixel_steps for part in parts),
    )
