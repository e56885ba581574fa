"""`illo up` on emulators of Google's services: the backends of a deployment, on one machine.

The emulators keep everything in memory: what was drawn is gone when they end.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import urllib3

from deploy.children import Role
from deploy.emulators import Hosts, emulators
from deploy.footing import Footing
from deploy.ground import free_ports
from shared.clock import SystemClock
from shared.errors import BadSettings, ServiceUnreachable
from shared.keys import Scope, new_key, write_keys
from shared.settings import Backend, Settings

PROJECT, BUCKET, TOPIC = "illo-local", "illo-local", "wakes"
TENANT = "local"
AUDIENCE, SWEEP_AUDIENCE = "https://worker.illo.local/push", "https://api.illo.local/sweep"
EMAIL, SWEEP_EMAIL = (f"{name}@{PROJECT}.iam.gserviceaccount.com" for name in ("push", "scheduler"))

_PROXY = "from deploy.push_proxy import main; main()"


def require_emulators(settings: Settings, *, wished: bool) -> None:
    """Raise BadSettings unless the backend and the wish for emulators fit each other."""
    if settings.backend is Backend.GCP and not wished:
        raise BadSettings(
            "ILLO_BACKEND: `illo up` runs everything on this machine, on Google's emulators only: "
            "add --emulators"
        )
    if wished and settings.backend is not Backend.GCP:
        raise BadSettings("--emulators: they are Google's; add --backend gcp")
    if wished and settings.weights_bucket is not None:
        raise BadSettings(
            f"ILLO_WEIGHTS: {settings.weights} cannot be read beside emulators, whose buckets are "
            "empty; name a folder of this machine, or tiny"
        )


@contextmanager
def emulated(settings: Settings, mishaps: Sequence[str]) -> Iterator[Footing]:
    """Start the emulators and make what a deployment has: bucket, topic, key and push proxy.

    `mishaps` are arguments of the push proxy. Raises BadSettings with what is not installed, or
    ServiceUnreachable.
    """
    with emulators(settings.data / "logs") as hosts:
        (port,) = free_ports(1)
        make_bucket(hosts.storage)
        settings, key = with_key(settings_on(hosts, settings, proxy=port))

        def queue(workers: Sequence[str], api: str) -> Role:
            return Role(
                kind="queue",
                name="push-proxy",
                code=_PROXY,
                settings=settings.model_copy(update={"port": port}),
                arguments=[*workers, "--sweep", f"{api}/internal/sweep", *mishaps],
            )

        yield Footing(settings=settings, queue=queue, key=key)


def settings_on(hosts: Hosts, settings: Settings, *, proxy: int) -> Settings:
    """Point settings at emulators, and at the push proxy that listens on this port."""
    named = {
        "backend": Backend.GCP,
        "project": PROJECT,
        "bucket": BUCKET,
        "topic": TOPIC,
        "push_audience": AUDIENCE,
        "push_email": EMAIL,
        "sweep_audience": SWEEP_AUDIENCE,
        "sweep_email": SWEEP_EMAIL,
        "certificates": f"http://127.0.0.1:{proxy}/certificates",
        "firestore_emulator": hosts.firestore,
        "pubsub_emulator": hosts.pubsub,
        "storage_emulator": hosts.storage,
    }
    return settings.model_copy(update=named)


def with_key(settings: Settings) -> tuple[Settings, str | None]:
    """Make a key unless there are some: nothing runs on Google's backends without."""
    if settings.keys is not None:
        return settings, None
    key, stored = new_key(
        TENANT, list(Scope), SystemClock().now(), expires_at=None, random=secrets.token_bytes
    )
    return settings.model_copy(update={"keys": write_keys([stored])}), key


def make_bucket(storage: str) -> None:
    """Make the bucket on a storage emulator, unless it is there; raises ServiceUnreachable."""
    try:
        answer = urllib3.request(
            "POST", f"{storage}/storage/v1/b?project={PROJECT}", json={"name": BUCKET}, timeout=10.0
        )
    except urllib3.exceptions.HTTPError as error:
        raise ServiceUnreachable(f"the storage emulator at {storage}: {error}") from None
    if answer.status not in (200, 409):
        raise ServiceUnreachable(f"the storage emulator at {storage} answers {answer.status}")
