"""Lists of jobs that people and the clean-up ask for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from shared.batches import Take
from shared.gcp import shapes
from shared.gcp.firestore import Fields, Firestore
from shared.gcp.job_documents import jobs_of, pair_of
from shared.gcp.pages import Place
from shared.jobs import Job
from shared.ports import JobFilter
from shared.vocabulary import Status

KEYS_AT_ONCE = 30  # values that Firestore compares one field with
TAKE_FIELDS = ("id", "scene_key", "take", "status", "recipe")


def newest(
    firestore: Firestore, filter: JobFilter, *, limit: int, after: Place | None
) -> list[Job]:
    """List a tenant's jobs, newest first, those behind `after`."""
    narrowed: dict[str, Any] = {
        "status": filter.status.value if filter.status else None,
        "batch": filter.batch,
        "metadata": pair_of(*filter.metadata) if filter.metadata else None,
    }
    asked = {name: value for name, value in narrowed.items() if value is not None}
    since = filter.created_after
    ask = shapes.LISTED[frozenset(asked)].ask(
        tenant=filter.tenant,
        deleted=False,
        **asked,
        limit=limit,
        after=after,
        before=None if since is None else (since,),
    )
    return jobs_of(firestore.run(ask))


def untidy(firestore: Firestore, limit: int, *, now: datetime) -> list[Job]:
    """See JobStore.untidy."""
    return jobs_of(firestore.run(shapes.UNTIDY.ask(cleanup_due=now, limit=limit)))


def retired(firestore: Firestore, limit: int, *, now: datetime) -> list[Job]:
    """See JobStore.retired."""
    return jobs_of(firestore.run(shapes.RETIRED.ask(final=True, expire_at=now, limit=limit)))


def takes(firestore: Firestore, batch: str, keys: Sequence[str] | None) -> list[Take]:
    """See JobStore.takes."""
    of: dict[str, Any] = {"batch": batch, "deleted": False, "select": TAKE_FIELDS}
    if keys is None:
        return [_take_of(fields) for fields in firestore.run(shapes.TAKES.ask(**of))]
    wanted = sorted(set(keys))
    found = [
        _take_of(fields)
        for start in range(0, len(wanted), KEYS_AT_ONCE)
        for fields in firestore.run(
            shapes.TAKES_OF_SCENES.ask(**of, scene_key=wanted[start : start + KEYS_AT_ONCE])
        )
    ]
    return sorted(found, key=lambda take: (take.key, take.take))


def _take_of(fields: Fields) -> Take:
    return Take(
        job=fields["id"],
        key=fields["scene_key"],
        take=fields["take"],
        status=Status(fields["status"]),
        recipe=fields["recipe"],
    )
