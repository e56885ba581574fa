"""What a part measures on, and where its figures go, so that none is lost when time runs out."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import FULL, SMALL, Sizes
from benchmarks.report import Figure

RESULTS = "results.json"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "gguf", "safetensors", "triton")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The weights and the device of one part; `small` is for trying the scripts on a CPU."""

    weights: Path
    device: str
    small: bool
    blocks: tuple[int, int]
    t5_blocks: int
    quantization: str

    @property
    def sizes(self) -> Sizes:
        """The sizes of its weights."""
        widths = SMALL if self.small else FULL
        return widths.with_depths(blocks=self.blocks, t5_blocks=self.t5_blocks)

    @property
    def cuda(self) -> bool:
        """Whether there is a card."""
        return self.device.startswith("cuda")

    @property
    def side(self) -> int:
        """Of a picture and of its reference, in pixels."""
        return 64 if self.small else 1024

    @property
    def steps(self) -> int:
        """Of a drawing; enough to tell a step's time, fewer than a picture needs."""
        return 2 if self.small else 6


@dataclass(slots=True, kw_only=True)
class Results:
    """One part's figures and notes, written as soon as they are known."""

    folder: Path
    part: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _device: dict[str, Any] | None = None

    def add(self, *figures: Figure) -> None:
        """Write figures beside those that are there."""
        self.figures += figures
        self._write()

    def note(self, text: str) -> None:
        """Write a sentence that the figures need."""
        self.notes.append(text)
        self._write()

    def peer(self, part: str, what: str) -> float | None:
        """Look up a figure of a part that was measured before."""
        figures = read_results(self.folder).get(part, {}).get("figures", [])
        return next((float(each["value"]) for each in figures if each["what"] == what), None)

    def _write(self) -> None:
        if self._device is None:
            # not before the first figure: a start is measured from the beginning of the process
            self._device = _device()
        own = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._device,
            "notes": self.notes,
            "figures": [figure.document() for figure in self.figures],
        }
        write_results(self.folder, read_results(self.folder) | {self.part: own})


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what all parts have written so far."""
    file = folder / RESULTS
    return dict(json.loads(file.read_text())) if file.exists() else {}


def write_results(folder: Path, results: dict[str, dict[str, Any]]) -> None:
    """Write them all; a process that is killed meanwhile leaves those of before."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{RESULTS}"
    fresh.write_text(json.dumps(results, indent=1) + "\n")
    fresh.replace(folder / RESULTS)


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        import torch  # not at the top: a start is measured from before it is imported

        torch.cuda.synchronize(device)


def seconds_of(device: str, act: Callable[[], object], *, repeats: int, warm_ups: int = 1) -> float:
    """Time an act until the device is done with it: the median of some, after others."""
    taken = []
    for _ in range(warm_ups + repeats):
        synchronize(device)
        began = time.perf_counter()
        act()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[warm_ups:])


def _device() -> dict[str, Any]:
    from worker.pipeline.device import look_at_device  # imports torch

    found = look_at_device()
    return {
        "device": found.name,
        "driver": found.card.driver if found.card else None,
        "memory_bytes": found.memory,
        "cores": found.cores,
        "cuda": found.built_for,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
