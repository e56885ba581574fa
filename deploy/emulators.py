"""Emulators of Firestore, Pub/Sub and Cloud Storage, for as long as a block runs.

docs/emulators.md says where they differ from the services.
"""

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from deploy.ground import free_ports
from deploy.groups import group
from shared.errors import BadSettings, ServiceUnreachable
from shared.settings import process_environment

PROJECT = "illo-test"  # for the wrapper only: an emulator serves every project that it is asked for
HOST = "127.0.0.1"
READY_WITHIN = 90.0  # seconds; four on an idle machine, but a busy one starts two JVMs
LOOK_EVERY = 0.1
LINES_SHOWN = 5

_STORAGE = "from gcp_storage_emulator.__main__ import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Where the emulators answer: host:port, but a URL for storage, as its SDK wants it."""

    firestore: str
    pubsub: str
    storage: str

    def environment(self) -> dict[str, str]:
        """Name them as Google's SDKs read them, and illo's settings."""
        return {
            "FIRESTORE_EMULATOR_HOST": self.firestore,
            "PUBSUB_EMULATOR_HOST": self.pubsub,
            "STORAGE_EMULATOR_HOST": self.storage,
        }


def missing() -> list[str]:
    """Say what of the emulators is not installed, and how to get it; nothing if all is there."""
    faults = []
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        faults.append("gcloud: not on the PATH; see https://cloud.google.com/sdk/docs/install")
    for component in ("cloud-firestore-emulator", "pubsub-emulator"):
        if gcloud is not None and not _has_component(gcloud, component):
            faults.append(
                f"{component}: not installed; `gcloud components install {component}`, or "
                f"`apt-get install google-cloud-cli-{component.removeprefix('cloud-')}`"
            )
    if shutil.which("java") is None:
        faults.append("java: not on the PATH; both of Google's emulators need a JRE, 11 or newer")
    if importlib.util.find_spec("gcp_storage_emulator") is None:
        faults.append("gcp-storage-emulator: not installed; `pip install gcp-storage-emulator`")
    return faults


@contextmanager
def emulators(logs: Path) -> Iterator[Hosts]:
    """Start all three with nothing in them, and end them after the block.

    They end with this program even if it is killed. Raises BadSettings with everything that is not
    installed, ServiceUnreachable if one does not start.
    """
    if faults := missing():
        raise BadSettings("the emulators cannot be started:\n" + "\n".join(faults))
    logs.mkdir(parents=True, exist_ok=True)
    firestore, pubsub, storage = (f"{HOST}:{port}" for port in free_ports(3))
    commands = {
        "firestore": ["gcloud", "emulators", "firestore", "start", f"--host-port={firestore}"],
        "pubsub": [
            "gcloud", "beta", "emulators", "pubsub", "start",
            f"--project={PROJECT}", f"--host-port={pubsub}",
        ],
        "storage": [
            sys.executable, "-c", _STORAGE, "start", "--in-memory", "--quiet",
            f"--host={HOST}", f"--port={storage.rpartition(':')[2]}",
        ],
    }  # fmt: skip
    addresses = {"firestore": firestore, "pubsub": pubsub, "storage": storage}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(
                group(command, log=logs / f"{name}.log", environment=_environment())
            )
            for name, command in commands.items()
        }
        for name, program in running.items():
            _await(name, program, addresses[name], logs / f"{name}.log")
        yield Hosts(firestore=firestore, pubsub=pubsub, storage=f"http://{storage}")


def _has_component(gcloud: str, component: str) -> bool:
    root = Path(gcloud).resolve().parents[1]
    # Some packagers put gcloud elsewhere; then its own complaint has to do.
    return not (root / "platform").is_dir() or (root / "platform" / component).is_dir()


def _environment() -> Mapping[str, str]:
    # An emulator that is told of another would serve as its client.
    names = Hosts(firestore="", pubsub="", storage="").environment()
    inherited = {k: v for k, v in process_environment().items() if k not in names and k != "PORT"}
    # Without: gcloud asks on a terminal that is not there, or looks for a newer gcloud.
    return inherited | {
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "CLOUDSDK_SURVEY_DISABLE_PROMPTS": "1",
    }


def _await(name: str, program: subprocess.Popen[bytes], address: str, log: Path) -> None:
    latest = time.monotonic() + READY_WITHIN
    while not _answers(address):
        if program.poll() is not None:
            raise ServiceUnreachable(f"the {name} emulator ended at its start:\n{_end_of(log)}")
        if time.monotonic() > latest:
            raise ServiceUnreachable(
                f"the {name} emulator does not answer at {address}; see {log}\n{_end_of(log)}"
            )
        time.sleep(LOOK_EVERY)


def _answers(address: str) -> bool:
    """Ask as a browser would: all three answer 200 to that once they serve."""
    connection = HTTPConnection(address, timeout=2.0)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
