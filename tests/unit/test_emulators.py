"""Starting the emulators: what is missing is told, one set serves a run, and nothing is left."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import tests.emulators
from deploy.emulators import Hosts, emulators, missing
from deploy.groups import group
from shared.errors import BadSettings, ServiceUnreachable
from tests.contract import test_artifact_store, test_races
from tests.contract.conftest import BEYOND_THE_STORAGE_EMULATOR, RACES_OF_ARTIFACTS
from tests.emulators import given_hosts, shared_emulators
from tests.programs import gone, until

pytestmark = pytest.mark.slow

# A command that leaves a program behind, as gcloud does, and tells the ids of both.
FAMILY = """
import os, subprocess, sys, time
if sys.argv[2:] == ["own group"]: os.setpgid(0, 0)
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1] + ".new", "w") as file: print(os.getpid(), left.pid, file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
if sys.argv[2:] != ["leave"]: time.sleep(600)
"""
HOLDER = """
import os, sys, time; from pathlib import Path; from deploy.groups import group
with group(sys.argv[2:], log=Path(sys.argv[1]), environment=dict(os.environ)): time.sleep(600)
"""


def family(told: Path, *how: str) -> list[str]:
    return [sys.executable, "-c", FAMILY, str(told), *how]


def members(told: Path) -> list[int]:
    until(told.exists)
    return [int(pid) for pid in told.read_text().split()]


@pytest.mark.parametrize("how", [[], ["own group"], ["leave"]])
def test_a_group_ends_with_its_block(tmp_path: Path, how: list[str]) -> None:
    told = tmp_path / "told"
    with group(family(told, *how), log=tmp_path / "log", environment=os.environ) as program:
        pids = members(told)
        assert pids[0] == program.pid
    until(lambda: all(map(gone, pids)))


def test_a_group_ends_when_its_command_does(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = family(told, "leave")
    with group(command, log=tmp_path / "log", environment=os.environ) as program:
        _, left = members(told)
        program.wait(30)
        until(lambda: gone(left))


def test_a_group_ends_when_the_program_that_holds_it_is_killed(tmp_path: Path) -> None:
    told, log = tmp_path / "told", tmp_path / "log"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(log), *family(told, "own group")])
    pids = members(told)
    holder.kill()
    holder.wait()
    until(lambda: all(map(gone, pids)))


def test_a_command_that_is_not_there_says_so_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with group(["no-such-command"], log=log, environment=os.environ) as program:
        assert program.wait(30) != 0
    assert "no-such-command" in log.read_text() or "FileNotFoundError" in log.read_text()


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gcloud with both components, and a java, that do what a test writes into them."""
    binaries = tmp_path / "sdk" / "bin"
    binaries.mkdir(parents=True)
    for component in ("cloud-firestore-emulator", "pubsub-emulator"):
        (tmp_path / "sdk" / "platform" / component).mkdir(parents=True)
    for name in ("gcloud", "java"):
        (binaries / name).write_text("#!/bin/sh\necho the licence was not accepted\nexit 1\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    return binaries / "gcloud"


def test_nothing_is_missing_where_all_is_installed(gcloud: Path) -> None:
    assert missing() == []


def test_everything_that_is_missing_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadSettings) as refused, emulators(tmp_path / "logs"):
        pass
    for part in ("gcloud: ", "cloud.google.com/sdk", "java: ", "pip install gcp-storage-emulator"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("component", "package"),
    [
        ("cloud-firestore-emulator", "google-cloud-cli-firestore-emulator"),
        ("pubsub-emulator", "google-cloud-cli-pubsub-emulator"),
    ],
)
def test_a_component_that_is_missing_is_told_with_its_remedy(
    gcloud: Path, component: str, package: str
) -> None:
    (gcloud.parents[1] / "platform" / component).rmdir()
    (fault,) = missing()
    assert f"gcloud components install {component}" in fault
    assert f"apt-get install {package}" in fault


def test_an_emulator_that_ends_at_its_start_says_why(gcloud: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceUnreachable, match=r"firestore emulator ended(?s:.)*licence was not"),
        emulators(tmp_path / "logs"),
    ):
        pass


def test_the_emulators_answer_where_they_say(emulators: Hosts) -> None:
    for address in (emulators.firestore, emulators.pubsub, emulators.storage.split("//")[1]):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    assert given_hosts(os.environ) == emulators


def test_the_callers_emulators_are_taken_all_or_none() -> None:
    hosts = Hosts(firestore="a:1", pubsub="b:2", storage="http://c:3")
    environment = hosts.environment()
    assert given_hosts(environment) == hosts
    assert given_hosts({}) is None
    for name in environment:
        with pytest.raises(AssertionError, match="all three"):
            given_hosts(environment | {name: ""})


# A keeper whose emulators are a number that is one higher for each set.
KEEPER = """
import sys; from contextlib import contextmanager; import tests.emulators as ours
@contextmanager
def emulators(folder):
    sets = folder / "sets"
    number = len(sets.read_text()) + 1 if sets.exists() else 1
    sets.write_text("x" * number)
    yield ours.Hosts(firestore=str(number), pubsub="", storage="")
    with (folder / "ended").open("a") as ended: ended.write("x")
ours.emulators = emulators
ours.main()
"""
USER = """
import sys, time; from pathlib import Path; import tests.emulators as ours
ours._KEEP = sys.argv[3]
with ours.shared_emulators(Path(sys.argv[1])) as hosts:
    Path(sys.argv[2] + ".new").write_text(hosts.firestore)
    Path(sys.argv[2] + ".new").rename(sys.argv[2])
    sys.stdin.read()
"""

Use = Callable[[], tuple["subprocess.Popen[bytes]", Path]]


@pytest.fixture
def use(tmp_path: Path) -> Iterator[Use]:
    """Start a program that uses the folder's set until its input ends; where it tells which."""
    with ExitStack() as stack:
        users = 0

        def start() -> tuple["subprocess.Popen[bytes]", Path]:
            nonlocal users
            users += 1
            told = tmp_path / f"user-{users}"
            program = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", USER, str(tmp_path), str(told), KEEPER],
                    stdin=subprocess.PIPE,
                )
            )
            stack.callback(program.kill)
            return program, told

        yield start


def test_a_run_has_one_set_which_ends_with_its_last_user(tmp_path: Path, use: Use) -> None:
    users = [use() for _ in range(3)]
    for _, told in users:
        until(told.exists)
        assert told.read_text() == "1"
    (first, _), (second, _), (third, _) = users
    first.communicate()
    second.kill()
    second.wait()
    assert not (tmp_path / "ended").exists()
    third.kill()
    until((tmp_path / "ended").exists)
    _, told = use()
    until(told.exists)
    assert told.read_text() == "2"


def test_a_set_whose_keeper_was_killed_is_not_used(tmp_path: Path, use: Use) -> None:
    (tmp_path / "hosts.json").write_text(
        json.dumps({"firestore": "0", "pubsub": "", "storage": ""})
    )
    _, told = use()
    until(told.exists)
    assert told.read_text() == "1"


def test_a_set_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tests.emulators, "_KEEP", "raise SystemExit('no room for it')")
    with pytest.raises(RuntimeError, match="no room for it"), shared_emulators(tmp_path):
        pass


def test_what_the_contract_leaves_out_is_there_to_be_left_out() -> None:
    for name in {*BEYOND_THE_STORAGE_EMULATOR, *RACES_OF_ARTIFACTS}:
        assert hasattr(test_artifact_store, name) or hasattr(test_races, name), name
