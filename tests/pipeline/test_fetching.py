"""The fetch process: what it brings along, what it says, and what becomes of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.errors import WeightsDamaged, WeightsMissing, WeightsUnreachable
from shared.manifest import Role
from tests.programs import gone, until
from tests.ranged_server import (
    BUSY,
    FOLDER,
    FORBIDDEN,
    REPLACED,
    RESET,
    STALL,
    Fault,
    RangedServer,
    objects_of,
    ranged_server,
)
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.weights.fetching import CODE, Fetching
from worker.pipeline.weights.hearing import Landing
from worker.pipeline.weights.telling import Filled

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]

ROLES = (Role.TEXT_ENCODER, Role.VAE, Role.TEXT_ENCODER_2, Role.TRANSFORMER)
AT = 400_000  # in the middle of the transformer, behind everything else
# Starts a fetch, says which process fetches and where its small files are, and waits to be killed.
PARENT = """
import sys, time
from worker.pipeline.weights.fetching import Fetching
fetching = Fetching(sys.argv[1], endpoint=sys.argv[2], through_ring=False)
folder = fetching.opened().folder
for role in ("text_encoder", "vae", "text_encoder_2"):
    fetching.wait_for(role)
print(fetching.pid, folder, flush=True)
time.sleep(600)
"""
MODULES = (
    "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules))));"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("weights") / "tiny"
    make_tiny_weights(folder)
    return folder


@pytest.fixture
def stalled(weights: Path) -> Iterator[RangedServer]:
    """A bucket whose transformer never comes to its end."""
    faults = (Fault(STALL, at=AT, times=100),)
    with ranged_server(objects_of(weights), faults=faults) as server:
        yield server


def waiting_for(server: RangedServer) -> Fetching:
    """Begin a fetch, and wait until it stalls."""
    begun = Fetching(FOLDER, endpoint=server.url, through_ring=False)
    begun.opened()
    until(lambda: STALL in server.happened)
    return begun


def finish(begun: Fetching) -> None:
    for role in ROLES:
        begun.wait_for(role)
    begun.fetched()


def test_it_needs_neither_torch_nor_flask(weights: Path) -> None:
    begun = subprocess.run(
        [sys.executable, "-c", MODULES + ALONE, str(weights)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    modules = set(json.loads(begun.stdout))
    assert "worker.pipeline.weights.fetch_process" in modules
    assert not modules & {"torch", "flask", "diffusers", "transformers", "gguf", "safetensors"}
    assert "google.auth" not in modules  # which a folder does not need


# Runs the fetch process's own code, with the other end of its pipe in a thread beside it.
ALONE = """
import os, sys
from multiprocessing.connection import Pipe
from pathlib import Path
from worker.pipeline.weights.fetch_process import main
from worker.pipeline.weights.layout import ORDER
from worker.pipeline.weights.shared_memory import create
from worker.pipeline.weights.telling import Begin, Ended, send
ours, theirs = Pipe()
send(ours, Begin(place=sys.argv[1], endpoint=None, connections=None,
    folder=None, arenas={r: create(r) for r in ORDER}, ring=create("ring"),
    slots=2, range_bytes=2**20, through_ring=False))
main(os.dup(theirs.fileno()))
while not isinstance(ours.recv(), Ended):
    pass
"""


def test_faults_that_pass_are_passed_over(weights: Path) -> None:
    faults = tuple(Fault(kind, at=AT) for kind in (BUSY, RESET))
    with (
        ranged_server(objects_of(weights), faults=faults) as server,
        Fetching(FOLDER, endpoint=server.url) as begun,
    ):
        finish(begun)
        assert begun.fetched().retries == 2


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        (FORBIDDEN, WeightsMissing, r"roles/storage\.objectViewer"),
        (REPLACED, WeightsDamaged, "replaced or deleted while it was read"),
        (BUSY, WeightsUnreachable, "answered 503"),
    ],
)
def test_the_reason_of_a_refusal_comes_through(
    weights: Path, kind: str, error: type[Exception], said: str
) -> None:
    # not in the first window, which the header's reader asks for
    faults = (Fault(kind, at=AT, times=1 if kind != BUSY else 100),)
    with (
        ranged_server(objects_of(weights), faults=faults) as server,
        Fetching(FOLDER, endpoint=server.url) as begun,
    ):
        begun.opened()
        with pytest.raises(error, match=said):
            finish(begun)
        until(lambda: gone(begun.pid))


def test_a_killed_fetch_is_told_at_once(stalled: RangedServer) -> None:
    with waiting_for(stalled) as begun:
        threading.Timer(0.2, os.kill, (begun.pid, signal.SIGKILL)).start()
        with pytest.raises(WeightsUnreachable, match=r"killed by SIGKILL\); start again"):
            finish(begun)


def test_a_fetch_that_dies_before_it_says_a_word_is_told(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.weights.fetching.CODE", "raise SystemExit(9)")
    assert CODE != "raise SystemExit(9)"
    with Fetching(str(weights)) as begun, pytest.raises(WeightsUnreachable, match="status 9"):
        begun.opened()


def test_it_ends_with_its_parent_and_takes_its_small_files_along(stalled: RangedServer) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, FOLDER, stalled.url], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        told, folder = parent.stdout.readline().split()
        until(lambda: STALL in stalled.happened)
        time.sleep(0.3)  # then it has told how far it came, and has nothing to say any more
        assert not gone(int(told))
        assert Path(folder, "model_index.json").exists()
        parent.kill()
    until(lambda: gone(int(told)))
    until(lambda: not Path(folder).exists())


def test_a_wish_to_end_does_not_wait_for_the_link(stalled: RangedServer) -> None:
    begun = waiting_for(stalled)
    folder = begun.opened().folder
    waiter = threading.Thread(target=begun.close)
    waiter.start()
    with pytest.raises(WeightsUnreachable, match="ended"):
        finish(begun)
    waiter.join()
    assert gone(begun.pid)
    assert not folder.exists()
    begun.close()


def test_files_of_before_are_whole_while_a_later_one_still_comes(stalled: RangedServer) -> None:
    told: list[int] = []
    with waiting_for(stalled) as begun:
        for role in ROLES[:3]:
            begun.wait_for(role, on_bytes=told.append)
        arena = begun.arena(Role.VAE)
        assert arena.any()
        tensors = begun.opened().layout.tensors
    assert told == sorted(told)
    assert told[-1] >= sum(slot.bytes for role in ROLES[:3] for slot in tensors[role].values())


class Stubborn(Landing):
    """Takes slots out of the ring, and never gives one back."""

    busy = False

    def __init__(self) -> None:
        self.filled: list[Filled] = []

    def copy(self, filled: Filled) -> None:
        self.filled.append(filled)

    def copied(self) -> list[int]:
        return []

    def finish(self) -> list[int]:
        return []


def test_a_full_ring_waits_and_asks_for_no_more(weights: Path) -> None:
    with (
        ranged_server(objects_of(weights)) as server,
        Fetching(
            FOLDER, endpoint=server.url, through_ring=True, slots=3, range_bytes=20_000
        ) as begun,
    ):
        begun.opened()
        landing = Stubborn()
        begun.land(landing)
        until(lambda: len(landing.filled) == 3)
        asked = len(server.asked)
        time.sleep(0.3)
        assert (len(landing.filled), len(server.asked)) == (3, asked)
        assert sorted(each.slot for each in landing.filled) == [0, 1, 2]


def test_before_anybody_takes_it_the_ring_fills_up(weights: Path) -> None:
    with (
        ranged_server(objects_of(weights)) as server,
        Fetching(
            FOLDER, endpoint=server.url, through_ring=True, slots=3, range_bytes=20_000
        ) as begun,
    ):
        begun.opened()
        until(lambda: np.count_nonzero(begun.ring().reshape(3, -1).any(axis=1)) == 3)


def test_an_error_of_the_device_comes_through(weights: Path) -> None:
    class Broken(Stubborn):
        def copy(self, filled: Filled) -> None:
            raise RuntimeError("the device is gone")

    with Fetching(str(weights), through_ring=True) as begun:
        begun.opened()
        begun.land(Broken())
        with pytest.raises(RuntimeError, match="the device is gone"):
            finish(begun)


def test_slots_that_are_given_back_to_nobody_are_no_failure(weights: Path) -> None:
    class Late(Stubborn):
        def finish(self) -> list[int]:
            if self.filled and self.filled[-1].role is Role.TRANSFORMER:
                until(lambda: gone(begun.pid))
            return [each.slot for each in self.filled]

    with Fetching(str(weights), through_ring=True) as begun:
        begun.opened()
        begun.land(Late())
        finish(begun)
