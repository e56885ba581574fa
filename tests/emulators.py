"""One set of emulators for a whole test run, started by whoever needs it first.

The run's programs share it by locks on files of one folder. The system lets go of a dead program's
locks, so the set ends with its last user, also if that was killed.
"""

import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from deploy.emulators import Hosts, emulators

STARTED_WITHIN = 120.0  # seconds
LOOK_EVERY = 0.05

_KEEP = "from tests.emulators import main; main()"


def given_hosts(environment: Mapping[str, str]) -> Hosts | None:
    """Say which emulators the caller has running; all three or none."""
    names = {"firestore": "FIRESTORE", "pubsub": "PUBSUB", "storage": "STORAGE"}
    given = {kind: environment.get(f"{name}_EMULATOR_HOST", "") for kind, name in names.items()}
    if not any(given.values()):
        return None
    assert all(given.values()), f"set the hosts of all three emulators or of none, not {given}"
    return Hosts(**given)


@contextmanager
def shared_emulators(folder: Path) -> Iterator[Hosts]:
    """Use this folder's set while the block lasts; the first one there starts it.

    Only once at a time in each program: the locks are the program's, not the block's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users.lock").open("a+") as users:
        with (folder / "start.lock").open("a") as start:
            fcntl.lockf(start, fcntl.LOCK_EX)
            fcntl.lockf(users, fcntl.LOCK_SH)  # waits for a set that is just being ended
            hosts = _find_or_start(folder)
        yield hosts


def keep(folder: Path) -> None:
    """Hold a set until nobody uses it any more: the program behind `shared_emulators`."""
    with (folder / "keeper.lock").open("a") as ours, (folder / "users.lock").open("a") as users:
        fcntl.lockf(ours, fcntl.LOCK_EX)
        with emulators(folder) as hosts:
            written = folder / "hosts.new"
            written.write_text(json.dumps(asdict(hosts)))
            written.rename(folder / "hosts.json")
            fcntl.lockf(users, fcntl.LOCK_EX)  # granted when the last user is gone
            (folder / "hosts.json").unlink()


def main() -> None:
    """Keep the set of the folder that is named as argument."""
    keep(Path(sys.argv[1]))


def _find_or_start(folder: Path) -> Hosts:
    found, latest = folder / "hosts.json", time.monotonic() + STARTED_WITHIN
    starting = None
    while not (_kept(folder) and found.exists()):
        assert time.monotonic() < latest, f"the emulators do not start; see {folder}"
        if starting is None and not _kept(folder):
            found.unlink(missing_ok=True)  # of a keeper that was killed
            starting = _start(folder)
        if starting is not None and starting.poll() is not None:
            raise RuntimeError((folder / "keeper.log").read_text())
        time.sleep(LOOK_EVERY)
    return Hosts(**json.loads(found.read_text()))


def _start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "keeper.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _KEEP, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )


def _kept(folder: Path) -> bool:
    with (folder / "keeper.lock").open("a") as keeper:
        try:
            fcntl.lockf(keeper, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
