"""The only place that chooses a backend, and imports it only then."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.clock import SystemClock
from shared.errors import BadSettings
from shared.manifest import Manifest, read_manifest
from shared.ports import (
    ArtifactStore,
    AssetStore,
    BatchStore,
    Clock,
    JobStore,
    Publisher,
    WorkerStore,
)
from shared.requirements import needed
from shared.settings import Backend, Settings, Signatures

if TYPE_CHECKING:  # it brings a Google SDK, which the API starts without
    from shared.identity import PushIdentity

GOOGLES_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
LOCAL_ISSUER = "https://queue.illo.local"
LOCAL_AUDIENCE = "https://worker.illo.local/push"
LOCAL_EMAIL = "push@illo.local"
LOCAL_KEY_ID = "illo-local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The services that a process works with."""

    jobs: JobStore
    batches: BatchStore
    assets: AssetStore
    workers: WorkerStore
    artifacts: ArtifactStore
    publisher: Publisher
    clock: Clock


def open_backends(settings: Settings) -> Backends:
    """Open the services that the settings name; raises StoreError if they cannot be."""
    return _on_google(settings) if settings.backend is Backend.GCP else _on_this_machine(settings)


def served_manifest(settings: Settings) -> Manifest:
    """Read the manifest of the weights that are drawn with, from wherever it lies.

    Raises WeightsMissing, WeightsDamaged, or WeightsUnreachable if a bucket does not answer.
    """
    folder = settings.weights_bucket
    if folder is None:
        return read_manifest(settings.weights_directory)
    try:
        from shared.gcp.weights import CloudWeights
    except ModuleNotFoundError as missing:
        raise BadSettings(
            f"ILLO_WEIGHTS: {folder} needs {missing.name}; install it with `pip install illo[gcp]`"
        ) from None
    return CloudWeights(folder, emulator=settings.storage_emulator).manifest()


def push_identity(settings: Settings) -> "PushIdentity":
    """Say whose pushes a worker accepts."""
    if settings.backend is Backend.GCP:
        return _google_identity(
            settings,
            audience=needed(settings, "push_audience"),
            email=needed(settings, "push_email"),
            signatures_removed=settings.push_signatures is Signatures.IAM,
        )
    from shared.embedded.push_keys import read_public_key
    from shared.identity import PushIdentity

    key = settings.data / "push-key.pem"
    return PushIdentity(
        issuers=(LOCAL_ISSUER,),
        audience=LOCAL_AUDIENCE,
        email=LOCAL_EMAIL,
        keys=lambda: {LOCAL_KEY_ID: read_public_key(key)},
    )


def sweep_identity(settings: Settings) -> "PushIdentity | None":
    """Say who may call for a sweep; nobody may where the API sweeps by itself."""
    if settings.backend is not Backend.GCP:
        return None
    return _google_identity(
        settings,
        audience=needed(settings, "sweep_audience"),
        email=needed(settings, "sweep_email"),
    )


def _on_this_machine(settings: Settings) -> Backends:
    from shared.embedded.artifact_store import FileArtifactStore
    from shared.embedded.asset_store import SqliteAssetStore
    from shared.embedded.batch_store import SqliteBatchStore
    from shared.embedded.database import Database
    from shared.embedded.delivery import QueueFile, SqlitePublisher
    from shared.embedded.job_store import SqliteJobStore
    from shared.embedded.worker_store import SqliteWorkerStore

    clock = SystemClock()
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(settings.data / "illo.sqlite", clock=clock)
    return Backends(
        jobs=SqliteJobStore(database),
        batches=SqliteBatchStore(database),
        assets=SqliteAssetStore(database),
        workers=SqliteWorkerStore(database),
        artifacts=FileArtifactStore(settings.data / "artifacts"),
        publisher=SqlitePublisher(QueueFile(settings.data / "queue.sqlite", clock=clock)),
        clock=clock,
    )


def _on_google(settings: Settings) -> Backends:
    try:
        from shared.gcp.artifact_store import CloudArtifactStore
        from shared.gcp.asset_store import FirestoreAssetStore
        from shared.gcp.batch_store import FirestoreBatchStore
        from shared.gcp.delivery import PubSubPublisher
        from shared.gcp.firestore import Firestore
        from shared.gcp.job_store import FirestoreJobStore
        from shared.gcp.worker_store import FirestoreWorkerStore
    except ModuleNotFoundError as missing:
        raise BadSettings(
            f"ILLO_BACKEND: gcp needs {missing.name}; install it with `pip install illo[gcp]`"
        ) from None
    project = needed(settings, "project")
    firestore = Firestore(project, database=settings.database)
    return Backends(
        jobs=FirestoreJobStore(firestore, terms=settings.terms),
        batches=FirestoreBatchStore(firestore),
        assets=FirestoreAssetStore(firestore),
        workers=FirestoreWorkerStore(firestore),
        artifacts=CloudArtifactStore(
            needed(settings, "bucket"), emulator=settings.storage_emulator
        ),
        publisher=PubSubPublisher(project, needed(settings, "topic")),
        clock=SystemClock(),
    )


def _google_identity(
    settings: Settings, *, audience: str, email: str, signatures_removed: bool = False
) -> "PushIdentity":
    from shared.gcp.certificates import Certificates
    from shared.identity import PushIdentity

    return PushIdentity(
        issuers=GOOGLES_ISSUERS,
        audience=audience,
        email=email,
        keys=Certificates(settings.certificates),
        signatures_removed=signatures_removed,
    )
