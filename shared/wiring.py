"""The only place that chooses a backend, and imports it only then."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.clock import SystemClock
from shared.manifest import read_manifest
from shared.ports import (
    ArtifactStore,
    AssetStore,
    BatchStore,
    Clock,
    JobStore,
    Publisher,
    WorkerStore,
)
from shared.scenes import Weights
from shared.settings import Settings

if TYPE_CHECKING:  # it brings a Google SDK, which the API starts without
    from shared.identity import PushIdentity

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
    """Open the services that the settings name."""
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


def served_weights(settings: Settings) -> Weights:
    """Say which weights are drawn with; raises WeightsMissing or WeightsDamaged."""
    manifest = read_manifest(settings.weights_directory)
    return Weights(label=manifest.label, sha256=manifest.sha256)


def push_identity(settings: Settings) -> "PushIdentity":
    """Say whose pushes a worker accepts."""
    from shared.embedded.push_keys import read_public_key
    from shared.identity import PushIdentity

    key = settings.data / "push-key.pem"
    return PushIdentity(
        issuers=(LOCAL_ISSUER,),
        audience=LOCAL_AUDIENCE,
        email=LOCAL_EMAIL,
        keys=lambda: {LOCAL_KEY_ID: read_public_key(key)},
    )
