"""The tie to the parent: no child outlives one that was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.lifeline import Lifeline
from tests.programs import gone, until

PROMISED = 5.0  # seconds in which children end

PARENT = """
import os, subprocess, sys, time
first, code, ready, unbroken = sys.argv[1:]
read, write = os.pipe()
hold = f"{first}from deploy.lifeline import hold; hold({os.getpid()}, {read}); "
child = subprocess.Popen(
    [sys.executable, "-c", hold + code, ready],
    pass_fds=(read, write) if unbroken else (read,),
)
print(child.pid, flush=True)
time.sleep(600)
"""
ORDERLY = """
import signal, sys, time; from pathlib import Path
def end(*_):
    Path(sys.argv[1] + ".ended").touch(); sys.exit()
signal.signal(signal.SIGTERM, end); Path(sys.argv[1]).touch(); time.sleep(600)
"""
STUBBORN = """
import signal, sys, time; from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN); Path(sys.argv[1]).touch(); time.sleep(600)
"""
pytestmark = pytest.mark.slow

NO_KERNEL = "import sys; sys.platform = 'elsewhere'; "
UNBROKEN = "yes"  # the child keeps the pipe's other end, so that only the kernel tells it


@pytest.mark.parametrize(
    ("first", "unbroken", "code"),
    [
        pytest.param("", "", ORDERLY, id="both"),
        pytest.param("", UNBROKEN, ORDERLY, id="the kernel alone"),
        pytest.param(NO_KERNEL, "", ORDERLY, id="the pipe alone"),
        pytest.param("", "", STUBBORN, id="one that does not listen"),
    ],
)
def test_a_child_ends_in_time_when_its_parent_is_killed(
    tmp_path: Path, first: str, unbroken: str, code: str
) -> None:
    ready = tmp_path / "ready"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, first, code, str(ready), unbroken], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until(ready.exists)
    parent.kill()
    parent.wait()
    until(lambda: gone(child), PROMISED)
    assert Path(f"{ready}.ended").exists() == (code == ORDERLY)  # in order, where it listens


def test_letting_go_ends_what_was_started(tmp_path: Path) -> None:
    ready, lifeline = tmp_path / "ready", Lifeline()
    child = lifeline.start(f"import sys; sys.platform = 'elsewhere'; {ORDERLY}", str(ready))
    until(ready.exists)
    assert child.poll() is None
    # On Linux the kernel tells of deaths, and here nobody dies: the child is ended, not asked.
    lifeline.close()
    assert child.wait(PROMISED) is not None
