"""Jobs as documents: the whole job as one text, and the fields that queries need beside it."""

import hashlib
import json
from collections.abc import Iterable

from shared.documents import from_json, to_json
from shared.errors import JobExists, JobNotFound
from shared.gcp.firestore import Fields
from shared.gcp.shapes import JOBS
from shared.gcp.transactions import Transaction
from shared.jobs import Job

LONGEST_PAIR = 1000  # bytes


def job_of(fields: Fields) -> Job:
    """Read a job from its document."""
    return from_json(Job, fields["document"])


def jobs_of(found: Iterable[Fields]) -> list[Job]:
    """Read the jobs of a query."""
    return [job_of(fields) for fields in found]


def read_job(transaction: Transaction, id: str) -> Job:
    """Read a job; raises JobNotFound."""
    fields = transaction.get(JOBS, id)
    if fields is None:
        raise not_found(id)
    return job_of(fields)


def write_job(transaction: Transaction, job: Job) -> None:
    """Write a job that this transaction has read."""
    transaction.write(JOBS, job.id, fields_of(job))


def create_job(transaction: Transaction, job: Job) -> None:
    """Write a new job; the transaction raises DocumentExists if there is one."""
    transaction.create(JOBS, job.id, fields_of(job))


def not_found(id: str) -> JobNotFound:
    """Say that there is no such job."""
    return JobNotFound(f"{id}: there is no such job")


def exists(id: str) -> JobExists:
    """Say that an id is taken."""
    return JobExists(f"{id} is stored already")


def pair_of(name: str, value: str) -> str:
    """Write a pair of metadata as one word that no other pair has, and that can be looked up.

    Firestore compares the first 1,500 bytes of a text only.
    """
    pair = f"{name}={value}"
    if "=" not in name and len(pair.encode()) <= LONGEST_PAIR:
        return pair
    return hashlib.sha256(json.dumps([name, value]).encode()).hexdigest()


def fields_of(job: Job) -> Fields:
    """Write a job as a document."""
    return {
        "id": job.id,
        "document": to_json(job),
        "tenant": job.tenant,
        "status": job.status.value,
        "final": job.status.final,
        "rank": job.priority.rank,
        "recipe": job.recipe,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "expire_at": job.expire_at,
        "not_before": job.not_before,
        "wake_at": job.wake_at,
        "claimed_at": job.claimed_at,
        "lease_expires_at": job.lease.expires_at if job.lease else None,
        "cleanup_due": job.cleanup_due,
        "deleted": job.deleted_at is not None,
        "cancel_wished": job.cancel_requested_at is not None,
        "batch": job.batch,
        "scene_key": job.scene_key,
        "take": job.take,
        "superseded": job.superseded,
        "megapixel_steps": job.scene.megapixel_steps,
        "gpu_seconds": job.metrics.gpu_seconds,
        "metadata": sorted(pair_of(name, value) for name, value in job.metadata.items()),
        # Only unfinished jobs need their assets.
        "draws_from": []
        if job.status.final
        else sorted({reference.asset for reference in job.scene.references}),
    }
