"""Let each part be measured by a fresh process, for as long as the budget lasts."""

import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import IO

from benchmarks.gpu.bench import Bench, read_results, write_results
from benchmarks.gpu.parts import Part
from benchmarks.gpu.start import evict
from benchmarks.report import Figure, print_table
from shared.manifest import NAME

LOG, TABLE = "log.txt", "table.txt"
LEAST_SECONDS = 20.0  # less is not enough for the imports and the loading of any part
LINES_SHOWN = 15


class Run:
    """One call of the command: where results go, and how much time is left."""

    def __init__(
        self, out: Path, weights: Path, *, device: str, small: bool, budget_seconds: float
    ) -> None:
        self._out, self._weights = out, weights
        self._device, self._small = device, small
        self._ends_at = time.monotonic() + budget_seconds
        out.mkdir(parents=True, exist_ok=True)

    def measure(self, part: Part) -> bool:
        """Measure a part, and make its weights before; False if it failed or there was no time."""
        bench = part.bench(self._weights, device=self._device, small=self._small)
        if not (bench.weights / NAME).exists() and not self._child(part, "--make"):
            return False
        if part.cold:
            evict(bench.weights)
        fine = self._child(part, "--part")
        self._show(part.name)
        return fine

    def _child(self, part: Part, what: str) -> bool:
        left = self._ends_at - time.monotonic()
        named = part.name if what == "--part" else f"weights of {part.name}"
        if left < LEAST_SECONDS and not self._small:
            self._failed(part.name, f"{named}: not begun, the budget is used up")
            return False
        print(f"{named}: at most {left:.0f} s", flush=True)
        arguments = [sys.executable, "-m", "benchmarks.gpu", what, part.name, *self._arguments()]
        with (self._out / LOG).open("a") as log:
            log.write(f"\n== {named}\n")
            log.flush()
            status = _ended_within(left, arguments, log)
        if status is None:
            self._failed(part.name, f"{named}: ended, the budget was used up")
        elif status:
            self._failed(part.name, f"{named}: exit status {status}; {LOG} says more")
            lines = (self._out / LOG).read_text().splitlines()
            print("\n".join(lines[-LINES_SHOWN:]))
        return status == 0

    def _arguments(self) -> list[str]:
        told = ["--out", str(self._out), "--weights", str(self._weights), "--device", self._device]
        return [*told, *(["--small"] if self._small else [])]

    def _failed(self, name: str, reason: str) -> None:
        print(reason)
        results = read_results(self._out)
        own = results.get(name, {"figures": [], "notes": []})
        write_results(self._out, results | {name: own | {"failed": reason}})

    def _show(self, name: str) -> None:
        show(self._out, name)
        with (self._out / TABLE).open("w") as table, redirect_stdout(table):
            for each in read_results(self._out):
                show(self._out, each)


def _ended_within(seconds: float, arguments: list[str], log: IO[str]) -> int | None:
    """Run a program and what it starts; None if it had to be ended."""
    child = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def show(out: Path, name: str) -> None:
    """Print what there is of a part: figures, and the sentences that belong to them."""
    found = read_results(out).get(name)
    if found is None:
        return
    title = f"{name}: {found.get('device', 'unknown device')}"
    print_table(title, [Figure(**figure) for figure in found["figures"]])
    for note in found["notes"]:
        print(f"  {note}")
    if "failed" in found:
        print(f"  FAILED {found['failed']}")


def make(bench: Bench) -> None:
    """Make the weights of a bench."""
    from benchmarks.gpu.weights import make_full_weights

    make_full_weights(
        bench.weights,
        blocks=bench.blocks,
        t5_blocks=bench.t5_blocks,
        quantization=bench.quantization,
        sizes=bench.sizes,
    )
