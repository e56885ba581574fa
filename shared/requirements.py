"""Which settings a program cannot start without: everything that is missing is told at once."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from shared.errors import BadSettings
from shared.settings import GOOGLES_CERTIFICATES, Backend, Settings, Signatures, variable


def require_loopback(settings: Settings) -> None:
    """Raise BadSettings if others than this machine could reach a service that has no keys."""
    if settings.keys is None and not _is_loopback(settings.host):
        raise BadSettings(
            f"ILLO_HOST: listening on {settings.host} needs API keys; make one with `illo keys "
            "new` and set ILLO_KEYS, or use 127.0.0.1"
        )


def require_api(settings: Settings) -> None:
    """Raise BadSettings, with everything that is missing, unless an API can run with these."""
    require_loopback(settings)
    _refuse(
        [
            *_google_faults(settings, "keys", "sweep_audience", "sweep_email"),
            *_faults_of_signatures_before_an_api(settings),
        ]
    )


def require_worker(settings: Settings) -> None:
    """Raise BadSettings, with everything that is missing, unless a worker can run with these."""
    _refuse(
        [
            *_google_faults(settings, "push_audience", "push_email"),
            *_faults_of_signatures_before_a_worker(settings),
        ]
    )


def needed(settings: Settings, field: str) -> str:
    """Read a setting that has no default; raises BadSettings if it is missing."""
    value: str | None = getattr(settings, field)
    if value is None:
        raise BadSettings(_missing(field))
    return value


def _refuse(faults: Iterable[str]) -> None:
    told = "\n".join(faults)
    if told:
        raise BadSettings(told)


def _faults_of_signatures_before_an_api(settings: Settings) -> Iterator[str]:
    if settings.push_signatures is Signatures.IAM:
        yield (
            f"{variable('push_signatures')}: iam is for workers alone: an API is open to all, so "
            "nobody has verified who calls; leave it out here"
        )


def _faults_of_signatures_before_a_worker(settings: Settings) -> Iterator[str]:
    if settings.push_signatures is Signatures.WORKER:
        return
    if settings.backend is not Backend.GCP:
        yield f"{variable('push_signatures')}: iam is for gcp alone; leave it out"
    elif settings.cloud_run_service is None:
        yield (
            f"{variable('push_signatures')}: iam is for Cloud Run alone, which would have set "
            f"{variable('cloud_run_service')}: here nobody has verified who pushes; leave it out"
        )


def _google_faults(settings: Settings, *also: str) -> list[str]:
    if settings.backend is not Backend.GCP:
        return []
    faults = [
        _missing(field)
        for field in ("project", "bucket", "topic", *also)
        if getattr(settings, field) is None
    ]
    emulators = ("firestore_emulator", "pubsub_emulator", "storage_emulator")
    missing = [variable(field) for field in emulators if getattr(settings, field) is None]
    if 0 < len(missing) < len(emulators):
        faults.append(
            f"{', '.join(missing)}: missing; with one emulator all three are needed, so that "
            "nothing of a test reaches the real services"
        )
    if settings.certificates != GOOGLES_CERTIFICATES:
        if missing:
            faults.append(
                f"{variable('certificates')}: only Google's are trusted, {GOOGLES_CERTIFICATES}, "
                "unless all three emulators are set"
            )
        elif not _is_loopback(urlsplit(settings.certificates).hostname or ""):
            faults.append(
                f"{variable('certificates')}: beside emulators they must come from this machine"
            )
    return faults


def _missing(field: str) -> str:
    return f"{variable(field)}: missing; {Settings.model_fields[field].description}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
