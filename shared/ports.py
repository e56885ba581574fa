"""What illo needs of the world, as Protocols; every backend keeps the same promises.

All of them raise StoreUnavailable (or its artifact sibling) when the backend cannot be reached.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from shared.assets import Asset
from shared.batches import Batch, BatchScene, SceneChange, Take
from shared.jobs import Job
from shared.messages import Wake
from shared.quotas import Quota, Usage
from shared.vocabulary import Priority, Status
from shared.workers import QueueControl, WorkerRecord

JobChange = Callable[[Job, datetime], Job]
BatchChange = Callable[[Batch, datetime], Batch]
SceneRule = Callable[[BatchScene, Job | None, datetime], SceneChange | None]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, kept to be given again byte for byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """What was answered to a request with an Idempotency-Key."""

    tenant: str
    path: str
    key_sha256: str
    request_sha256: str
    answer: Answer
    expire_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list; deleted ones never are."""

    tenant: str
    status: Status | None = None
    batch: str | None = None
    metadata: tuple[str, str] | None = None
    created_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item]):
    """A part of a list, and the cursor that continues it."""

    items: tuple[Item, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """How much is to be drawn before a job."""

    jobs: int
    megapixel_steps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCount:
    """How many unfinished jobs have this status and priority, and since when the oldest waits."""

    status: Status
    priority: Priority
    jobs: int
    oldest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where bytes were put."""

    name: str
    generation: int
    sha256: str
    bytes: int


class Clock(Protocol):
    """The time of day, aware and in UTC."""

    def now(self) -> datetime:
        """Tell the time."""


class IdempotencyStore(Protocol):
    """Answers that were given to requests with a key."""

    def recall(self, tenant: str, path: str, key_sha256: str) -> IdempotencyRecord | None:
        """Find an answer that has not expired."""

    def remember(self, record: IdempotencyRecord) -> None:
        """Keep an answer; raises IdempotencyRecorded, with the other record, if there is one."""


class JobStore(IdempotencyStore, Protocol):
    """The queue of record. Every instant it judges by comes from its own clock."""

    def create(
        self,
        jobs: Sequence[Job],
        *,
        record: IdempotencyRecord | None = None,
        quota: Quota | None = None,
    ) -> Usage | None:
        """Write up to 200 new jobs of one tenant and the record in one transaction, or nothing.

        With a quota the jobs are charged in that transaction, and what the tenant then uses is
        returned. Raises, in this order, IdempotencyRecorded if the key was used, JobExists if an id
        was, QuotaExceeded.
        """

    def get(self, id: str) -> Job:
        """Read a job, deleted ones too; raises JobNotFound."""

    def get_all(self, ids: Sequence[str]) -> Mapping[str, Job]:
        """Read the jobs that are there, by id, 200 at a time; deleted ones too."""

    def update(self, id: str, change: JobChange) -> Job:
        """Apply a pure change atomically and return what is stored now; raises JobNotFound.

        The change may run more than once; what it raises comes through and nothing is written, nor
        is anything if it returns the very job it was given. The store counts the version up.
        """

    def update_all(self, ids: Sequence[str], change: JobChange) -> None:
        """Apply a pure change to up to 200 jobs: to each whole or not at all, see update.

        A backend may divide them, so if this raises, some may be changed: repeat it. Jobs that are
        not there, and those for which the change raises a JobError, stay as they are.
        """

    def remove(self, id: str) -> None:
        """Forget a job for good; nothing happens if there is none."""

    def claimable(self, *, per_tenant: int) -> list[Job]:
        """List the due jobs a worker could claim: the first few of each tenant and priority.

        Queued ones whose time has come, without a cancel wish, oldest first; and running ones whose
        lease is over, which can be stolen.
        """

    def wakeable(self, limit: int) -> list[Job]:
        """List queued jobs whose wake_at has come, the first few of each tenant and priority."""

    def silent(self, limit: int) -> list[Job]:
        """List running jobs whose lease has expired, longest first."""

    def overdue(
        self, limit: int, *, queued_before: datetime, claimed_before: datetime
    ) -> list[Job]:
        """List jobs that have been queued or running since before these instants."""

    def untidy(self, limit: int) -> list[Job]:
        """List jobs whose cleanup is due."""

    def retired(self, limit: int) -> list[Job]:
        """List ended jobs, deleted ones too, whose retention time is over."""

    def find(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page[Job]:
        """List jobs, newest first; raises BadCursor."""

    def counts(self, tenant: str | None = None) -> list[QueueCount]:
        """Count the unfinished jobs by status and priority, of one tenant or of all."""

    def ahead(self, job: Job) -> Ahead:
        """Sum up the unfinished jobs that go before a queued one."""

    def gpu_seconds(self, since: datetime) -> float:
        """Sum up the device seconds of all jobs that changed since then."""

    def usage(self, tenant: str) -> Usage:
        """Tell what a tenant uses, at the store's time."""

    def needs_asset(self, asset: str) -> bool:
        """Whether an unfinished job draws from this asset."""

    def takes(self, batch: str, keys: Sequence[str] | None = None) -> list[Take]:
        """List the takes of a batch's scenes, or of those with these keys."""

    def batch_counts(self, batch: str) -> Mapping[Status, int]:
        """Count a batch's scenes by the status of their newest take."""

    def batch_gpu_seconds(self, batch: str) -> float:
        """Sum up the device seconds of all takes of a batch."""


class BatchStore(Protocol):
    """Batches and their scenes, in the same transactions as their jobs."""

    def create(
        self,
        batch: Batch,
        *,
        record: IdempotencyRecord | None = None,
        quota: Quota | None = None,
    ) -> Usage | None:
        """Write a new batch and the record, or nothing; its scenes are charged as jobs.

        See JobStore.create; raises IdempotencyRecorded or QuotaExceeded.
        """

    def get(self, id: str) -> Batch:
        """Read a batch; raises BatchNotFound."""

    def update(self, id: str, change: BatchChange) -> Batch:
        """See JobStore.update; raises BatchNotFound."""

    def unfinished(self, limit: int) -> list[Batch]:
        """List batches whose expansion or cancel is not done, oldest first."""

    def add_scenes(self, scenes: Sequence[BatchScene], jobs: Sequence[Job]) -> None:
        """Write up to 100 scenes and their first jobs; those that exist stay as they are."""

    def scene(self, batch: str, key: str) -> BatchScene:
        """Read a scene; raises SceneNotFound."""

    def scenes_by_key(self, batch: str, keys: Sequence[str]) -> Mapping[str, BatchScene]:
        """Read the scenes of a batch that are there, by key, 200 at a time."""

    def scenes(self, batch: str, *, after: int = -1, limit: int = 200) -> list[BatchScene]:
        """List scenes by position, those behind `after`."""

    def update_scenes(
        self,
        batch: str,
        keys: Sequence[str],
        rule: SceneRule,
        *,
        quota: Quota | None = None,
    ) -> list[SceneChange]:
        """Change up to 50 scenes in one transaction; return what was written.

        The rule is pure and gets each scene, its newest take's job and the time; None leaves the
        scene alone. A new job marks the former take's as superseded. With a quota the new jobs are
        charged. Raises SceneNotFound or QuotaExceeded, and then nothing was written.
        """


class AssetStore(Protocol):
    """What is known of uploaded images; their bytes are artifacts.

    A deleted asset is known for a while, so that a request that had read it can still use its
    bytes. Who removes bytes has removed the last asset of their artifact before, and an upload
    never stores under a name that an asset had: so no asset is ever without bytes.
    """

    def save(self, asset: Asset, *, instead_of: Asset | None = None) -> bool:
        """Write an asset unless one of its id and tenant is known, deleted or not.

        One with the artifact and generation of `instead_of` is replaced. Says whether it wrote.
        """

    def get(self, tenant: str, id: str) -> Asset | None:
        """Read an asset that is not deleted."""

    def get_all(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Asset]:
        """Read those of a tenant's assets that are not deleted, by id, 200 at a time."""

    def keep(self, tenant: str, id: str, *, until: datetime | None) -> bool:
        """Put off an asset's end, without a date for as long as batches live.

        Says whether it is known, deleted or not: then its bytes stay until then.
        """

    def recall(self, tenant: str, id: str, *, until: datetime) -> Asset | None:
        """Keep an asset and take its deletion back; return it as it was before, if it is known."""

    def find(self, tenant: str, *, limit: int, cursor: str | None = None) -> Page[Asset]:
        """List assets, newest first; raises BadCursor."""

    def delete(self, tenant: str, id: str) -> None:
        """Hide an asset from `get` and `find` at once; its time is over a GRACE later."""

    def retired(self, limit: int) -> list[Asset]:
        """List assets whose time is over, deleted or not."""

    def remove(self, asset: Asset) -> bool:
        """Remove an asset unless it has changed since it was listed.

        Says whether its artifact may be deleted: it was removed and no other asset has it.
        """


class WorkerStore(Protocol):
    """What workers tell, and the operator's switch."""

    def save(self, record: WorkerRecord) -> None:
        """Write what a worker says of itself; the latest fifty workers are kept."""

    def records(self) -> list[WorkerRecord]:
        """List the workers heard of, the last started first."""

    def control(self) -> QueueControl:
        """Read the switch."""

    def update_control(
        self, change: Callable[[QueueControl, datetime], QueueControl]
    ) -> QueueControl:
        """Turn the switch atomically."""

    def now(self) -> datetime:
        """Tell the store's time."""


class Publisher(Protocol):
    """The way to a worker."""

    def publish(self, wake: Wake) -> None:
        """Send a wake-up, at least once; raises PublishFailed unless it is confirmed."""


class ArtifactStore(Protocol):
    """Bytes under names that are written once."""

    def put(self, name: str, data: bytes, *, content_type: str) -> Stored:
        """Store bytes under a new name. The same bytes again are the same artifact.

        Raises ArtifactExists if the name holds other bytes.
        """

    def get(self, name: str, generation: int) -> bytes:
        """Read exactly what was put; raises ArtifactNotFound or ArtifactDamaged."""

    def delete(self, name: str) -> None:
        """Remove a name; nothing happens if it is not there."""

    def url(self, name: str, generation: int) -> str | None:
        """Make a link that lasts 15 minutes, where the backend serves bytes itself; else None."""
