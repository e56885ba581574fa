"""Changing jobs by a pure rule: one in a transaction, or as many as one commit can hold."""

from collections.abc import Sequence

from shared.batches import groups
from shared.errors import JobError
from shared.gcp.firestore import Fields
from shared.gcp.job_documents import fields_of, job_of
from shared.gcp.parts import LARGEST_COMMIT, largest_size
from shared.gcp.shapes import JOBS
from shared.gcp.transactions import Transaction
from shared.jobs import Job, stamp
from shared.ports import JobChange

READ_AT_ONCE = 50  # about what fills a commit if all are as wordy as they can be


def changed(transaction: Transaction, before: Job, change: JobChange) -> Job:
    """Apply a change to a job that was read, and return what is to be stored."""
    after = _after(transaction, before, change)
    if after is not before:
        transaction.write(JOBS, after.id, fields_of(after))
    return after


def change_some(transaction: Transaction, *, ids: Sequence[str], change: JobChange) -> int:
    """Change the first of these jobs and say how many of the ids are done: what a commit holds.

    A job that is not there, or for which the change raises a JobError, stays as it is.
    """
    done = size = 0
    for group in groups(ids, READ_AT_ONCE):
        found = transaction.get_all(JOBS, group)
        for id in group:
            fields = _fields_after(transaction, job_of(found[id]), change) if id in found else None
            if fields:
                size += largest_size(fields)
                if size > LARGEST_COMMIT and done:
                    return done
                transaction.write(JOBS, id, fields)
            done += 1
    return done


def _fields_after(transaction: Transaction, before: Job, change: JobChange) -> Fields | None:
    try:
        after = _after(transaction, before, change)
    except JobError:
        return None
    return None if after is before else fields_of(after)


def _after(transaction: Transaction, before: Job, change: JobChange) -> Job:
    now = transaction.now
    after = change(before, now)
    return before if after is before else stamp(before, after, now)
