"""Where training keeps what it has so far, so that it can be ended at any moment and gone on with.

Files are written beside their place and moved there, whole or not at all; only the losses grow.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shared.errors import WrongWeights

LOSSES = "losses.jsonl"
SAVE_EVERY = 60  # seconds: that much is lost at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a training began with, and must go on with."""

    seed: int
    stories: int
    models: str = ""  # a digest of their shapes and words; the oldest trainings tell none


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """How far one phase has come: its steps and the seconds they took."""

    step: int = 0
    seconds: float = 0.0


class Workbench:
    """A folder with the checkpoints of every phase, what was encoded, sheets and the losses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from teaching here meanwhile; raises WrongWeights if one does already."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongWeights(f"{self.folder}: somebody teaches there; wait or end it") from None
        else:
            yield
        finally:
            os.close(folder)

    def begin(self, beginning: Beginning, *, resume: bool) -> Beginning:
        """Begin in an empty folder, or go on; raises WrongWeights if the folder says otherwise."""
        path = self.folder / "beginning.json"
        if not path.exists():
            if resume:
                raise WrongWeights(f"{self.folder}: holds no training; without --resume one begins")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._begin(path, beginning)
            return beginning
        if not resume:
            raise self._held()
        began = Beginning(**json.loads(path.read_text(encoding="utf-8")))
        if began.seed != beginning.seed:
            raise WrongWeights(
                f"{self.folder}: began with --seed {began.seed}, not {beginning.seed}"
            )
        if began.models != beginning.models:
            raise WrongWeights(
                f"{self.folder}: began with models of other shapes or words; go on with the illo "
                "that began it, or begin in another directory"
            )
        return began

    def save(self, phase: str, tensors: Mapping[str, torch.Tensor], stand: Stand) -> None:
        """Save where a phase stands."""
        beside = self.folder / f".{phase}.safetensors"
        metadata = {"step": str(stand.step), "seconds": str(stand.seconds)}
        save_file({name: each.contiguous() for name, each in tensors.items()}, beside, metadata)
        beside.replace(self.path_of(phase))

    def stand_of(self, phase: str) -> Stand:
        """Tell how far a phase has come; it may not have begun."""
        if not self.path_of(phase).exists():
            return Stand()
        with safe_open(self.path_of(phase), framework="pt") as opened:
            told = opened.metadata()
        return Stand(step=int(told["step"]), seconds=float(told["seconds"]))

    def load(self, phase: str) -> dict[str, torch.Tensor]:
        """Read what a phase saved."""
        return load_file(self.path_of(phase))

    def path_of(self, phase: str) -> Path:
        """Where a phase is saved."""
        return self.folder / f"{phase}.safetensors"

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        beside = self.folder / f".{name}"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.folder / name)

    def note(self, phase: str, stand: Stand, measured: Mapping[str, float]) -> None:
        """Add a line to the losses."""
        line = {"phase": phase, **asdict(stand), **measured}
        with (self.folder / LOSSES).open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(line) + "\n")

    def _begin(self, path: Path, beginning: Beginning) -> None:
        beside = path.with_name(f".{path.name}-{os.getpid()}")
        beside.write_text(json.dumps(asdict(beginning)) + "\n", encoding="utf-8")
        try:
            os.link(beside, path)  # of two that begin at once, one finds it there
        except FileExistsError:
            raise self._held() from None
        finally:
            beside.unlink()

    def _held(self) -> WrongWeights:
        return WrongWeights(f"{self.folder}: holds a training; --resume goes on with it")


class Stopwatch:
    """Counts the seconds of a phase over all its beginnings, and when it should be saved."""

    def __init__(self, before: float, whole: float) -> None:
        """Go on at `before` seconds of the `whole` that the phase may take."""
        self._began = time.monotonic() - before
        self._whole = whole
        self._due = time.monotonic() + SAVE_EVERY

    @property
    def seconds(self) -> float:
        """What the phase has taken so far."""
        return time.monotonic() - self._began

    @property
    def fraction(self) -> float:
        """How much of its time has passed."""
        return min(1.0, self.seconds / self._whole) if self._whole else 1.0

    def due(self) -> bool:
        """Whether it is time to save; then the next time is a minute later."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + SAVE_EVERY
        return True
