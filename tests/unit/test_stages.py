"""The stages of a start."""

import subprocess
import sys
import time

from shared.stages import Stages, age

SLOW = "import time; time.sleep(0.6); from shared.stages import age; print(age())"


def test_a_process_knows_how_long_it_has_run() -> None:
    began = time.monotonic()
    told = float(subprocess.run([sys.executable, "-c", SLOW], capture_output=True).stdout)
    assert 0.59 <= told <= time.monotonic() - began + 0.02


def test_the_stages_add_up_to_the_age() -> None:
    stages = Stages()
    stages.done("first")
    time.sleep(0.02)
    stages.done("second")
    seconds = stages.seconds()
    assert list(seconds) == ["first", "second"]
    assert seconds["second"] >= 0.02
    assert abs(sum(seconds.values()) - age()) < 0.05
