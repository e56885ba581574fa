"""Batches and their scenes in Firestore."""

from collections.abc import Sequence
from functools import partial
from itertools import starmap, zip_longest

from shared.batches import (
    MOST_ADDED,
    MOST_CHANGED,
    Batch,
    BatchScene,
    SceneChange,
    refuse_more_than,
    settled,
    stamp_batch,
)
from shared.documents import from_json, to_json
from shared.errors import BatchNotFound
from shared.gcp import job_documents, scene_documents, shapes
from shared.gcp.firestore import Fields, Firestore
from shared.gcp.idempotency import write_record
from shared.gcp.parts import Documents, parts
from shared.gcp.scene_changes import RestsOnNothing, change_scenes
from shared.gcp.shapes import BATCHES, JOBS, SCENES
from shared.gcp.transactions import DocumentExists, Transaction
from shared.gcp.usage import Turns, charge_jobs
from shared.jobs import Job
from shared.ports import BatchChange, IdempotencyRecord, SceneRule
from shared.quotas import Quota, Usage, pending


class FirestoreBatchStore:
    """See BatchStore."""

    def __init__(self, firestore: Firestore) -> None:
        self._firestore = firestore
        self._turns = Turns(firestore.patience)

    def create(
        self,
        batch: Batch,
        *,
        record: IdempotencyRecord | None = None,
        quota: Quota | None = None,
    ) -> Usage | None:
        """See BatchStore.create."""
        body = partial(_create, batch=batch, record=record, quota=quota)
        with self._turns.of(batch.tenant, quota):
            return self._firestore.transact(body)

    def get(self, id: str) -> Batch:
        """See BatchStore.get."""
        return _batch_of(self._firestore.get(BATCHES, id), id)

    def update(self, id: str, change: BatchChange) -> Batch:
        """See BatchStore.update."""
        return self._firestore.transact(partial(_update, id=id, change=change))

    def unfinished(self, limit: int) -> list[Batch]:
        """See BatchStore.unfinished."""
        found = self._firestore.run(shapes.UNSETTLED.ask(settled=False, limit=limit))
        return [from_json(Batch, fields["document"]) for fields in found]

    def add_scenes(self, scenes: Sequence[BatchScene], jobs: Sequence[Job]) -> None:
        """See BatchStore.add_scenes; a scene and the job beside it are written at once."""
        refuse_more_than(MOST_ADDED, len(scenes), "scenes")
        refuse_more_than(MOST_ADDED, len(jobs), "jobs")
        for part in parts(starmap(_documents_of, zip_longest(scenes, jobs))):
            try:  # nearly always none of them is there, so nobody looks first
                self._firestore.transact(partial(_create_all, documents=part))
            except DocumentExists:
                self._firestore.transact(partial(_create_missing, documents=part))

    def scene(self, batch: str, key: str) -> BatchScene:
        """See BatchStore.scene."""
        fields = self._firestore.get(SCENES, scene_documents.name_of(batch, key))
        if fields is None:
            raise scene_documents.not_found(batch, key)
        return scene_documents.scene_of(fields)

    def scenes_by_key(self, batch: str, keys: Sequence[str]) -> dict[str, BatchScene]:
        """See BatchStore.scenes_by_key."""
        names = [scene_documents.name_of(batch, key) for key in keys]
        found = map(scene_documents.scene_of, self._firestore.get_all(SCENES, names).values())
        return {scene.key: scene for scene in found}

    def scenes(self, batch: str, *, after: int = -1, limit: int = 200) -> list[BatchScene]:
        """See BatchStore.scenes."""
        ask = shapes.SCENES_OF_BATCH.ask(batch=batch, position=after, limit=limit)
        return [scene_documents.scene_of(fields) for fields in self._firestore.run(ask)]

    def update_scenes(
        self,
        batch: str,
        keys: Sequence[str],
        rule: SceneRule,
        *,
        quota: Quota | None = None,
    ) -> list[SceneChange]:
        """See BatchStore.update_scenes."""
        refuse_more_than(MOST_CHANGED, len(keys), "scenes")
        named = list(dict.fromkeys(keys))
        body = partial(change_scenes, batch=batch, keys=named, rule=rule, quota=quota)
        try:
            return self._firestore.transact(partial(body, locking=False))
        except RestsOnNothing:  # only a lock keeps a document from coming into being
            pass
        return self._firestore.transact(partial(body, locking=True), locking=True)


def _create(
    transaction: Transaction, *, batch: Batch, record: IdempotencyRecord | None, quota: Quota | None
) -> Usage | None:
    if record:
        write_record(transaction, record)
    usage = charge_jobs(transaction, batch.tenant, batch.scene_count, quota)
    transaction.create(BATCHES, batch.id, _fields_of(batch))
    return usage


def _update(transaction: Transaction, *, id: str, change: BatchChange) -> Batch:
    before = _batch_of(transaction.get(BATCHES, id), id)
    after = change(before, transaction.now)
    if after is before:
        return before
    stored = stamp_batch(before, after, transaction.now)
    transaction.write(BATCHES, id, _fields_of(stored))
    return stored


def _create_all(transaction: Transaction, *, documents: Documents) -> None:
    for (collection, id), fields in documents.items():
        transaction.create(collection, id, fields)


def _create_missing(transaction: Transaction, *, documents: Documents) -> None:
    there = {
        (collection, id)
        for collection in (SCENES, JOBS)
        for id in transaction.get_all(collection, [id for of, id in documents if of == collection])
    }
    for (collection, id), fields in documents.items():
        if (collection, id) not in there:
            transaction.write(collection, id, fields)


def _documents_of(scene: BatchScene | None, job: Job | None) -> Documents:
    documents = Documents()
    if scene:
        name = scene_documents.name_of(scene.batch, scene.key)
        documents[SCENES, name] = scene_documents.fields_of(scene)
    if job:
        documents[JOBS, job.id] = job_documents.fields_of(job)
    return documents


def _batch_of(fields: Fields | None, id: str) -> Batch:
    if fields is None:
        raise BatchNotFound(f"{id}: there is no such batch")
    return from_json(Batch, fields["document"])


def _fields_of(batch: Batch) -> Fields:
    return {
        "id": batch.id,
        "document": to_json(batch),
        "tenant": batch.tenant,
        "created_at": batch.created_at,
        "settled": settled(batch),
        "pending": pending(batch),
    }
