"""Whether what illo's programs stand on is there, and takes what they write.

Nothing is changed: no job is made, no message is sent, and what is written is removed at once.
"""

from collections.abc import Iterator

from deploy.findings import Finding, well, wrong
from shared.errors import IlloError
from shared.settings import Backend, Settings


def backends_found(settings: Settings) -> Iterator[Finding]:
    """See whether what the processes stand on is there, and takes what they write."""
    if settings.backend is Backend.GCP:
        yield from _google_found(settings)
        return
    from deploy.arguments import require_writable

    try:
        require_writable(settings.data)
    except OSError as error:
        reason = error.strerror or str(error)
        yield from wrong(
            "data", f"ILLO_DATA: nothing can be written in {settings.data} ({reason}); name another"
        )
        return
    yield well("data", f"{settings.data.resolve()} takes files")


def _google_found(settings: Settings) -> Iterator[Finding]:
    where = "emulators" if settings.firestore_emulator else "Google Cloud"
    checks = (
        ("firestore", "Firestore", _look_at_firestore),
        ("storage", "Cloud Storage", _look_at_bucket),
        ("pubsub", "Pub/Sub", _look_at_topic),
    )
    for what, service, look in checks:
        try:
            said = look(settings)
        except ModuleNotFoundError as missing:
            yield from wrong(
                what, f"{missing.name} is not installed; install it: pip install 'illo[gcp]'"
            )
        except IlloError as error:
            yield from wrong(what, error)
        else:
            yield well(what, f"{service} answers ({where}): {said}")


def _look_at_firestore(settings: Settings) -> str:
    from shared.gcp.firestore import Firestore
    from shared.gcp.worker_store import FirestoreWorkerStore
    from shared.requirements import needed

    project = needed(settings, "project")
    workers = FirestoreWorkerStore(Firestore(project, database=settings.database)).records()
    return f"{project}, database {settings.database}, {len(workers)} workers on record"


def _look_at_bucket(settings: Settings) -> str:
    from shared.cloud_folders import CloudFolder
    from shared.errors import ArtifactStoreUnavailable, WeightsError
    from shared.gcp.weights import CloudWeights
    from shared.requirements import needed

    folder = CloudFolder(needed(settings, "bucket"))
    try:
        CloudWeights(folder, emulator=settings.storage_emulator).files(most=1)
    except WeightsError as error:
        raise ArtifactStoreUnavailable(f"ILLO_BUCKET: {error}") from None
    return str(folder)


def _look_at_topic(settings: Settings) -> str:
    from shared.gcp.reach import find_topic
    from shared.requirements import needed

    topic = needed(settings, "topic")
    if find_topic(needed(settings, "project"), topic):
        return topic
    return f"{topic} may not be looked at, which publishing does not need"
