"""The pause between two drawings, when images are large and their store is far away."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.png import painted
from benchmarks.report import Figure
from shared.clock import SystemClock, new_id
from shared.embedded.artifact_store import FileArtifactStore
from shared.embedded.database import Database
from shared.embedded.job_store import SqliteJobStore
from shared.jobs import Job, Terms, enqueue
from shared.ports import Stored
from shared.scenes import Scene, Weights, recipe_of
from worker.desk import Desk, claim_job
from worker.drawing import Ahead, Drawing, Drawn
from worker.heartbeat import Pace
from worker.run_job import run_job
from worker.workplace import Workplace

JOBS = 12
SIDE = 1024
DRAWING = 0.5  # seconds; far less than any card takes, and more than the storing
UPLOAD = 0.15  # seconds
WEIGHTS = Weights(label="none", sha256="0" * 64)
PACE = Pace(heartbeat=15.0, progress=5.0, step_timeout=120.0)


def measure_between(folder: Path) -> list[Figure]:
    """Draw with the desk, and beside it one job after the other; the device only waits."""
    picture = Image.fromarray(painted(np.random.default_rng(7)))
    beside = _pauses(folder / "desk", picture, _at_the_desk)
    alone = _pauses(folder / "alone", picture, _one_by_one)
    told = f"{SIDE} × {SIDE}, stored in {UPLOAD * 1000:.0f} ms"
    return [
        Figure(
            what="between two drawings, each finished first", value=median(alone) * 1000,
            unit="ms", against=told,
        ),
        Figure(
            what="between two drawings, finished beside", value=median(beside) * 1000, unit="ms",
            ratio=median(beside) / median(alone), against="÷ each finished first",
        ),
    ]  # fmt: skip


class _Device:
    """Draws the same picture each time, and notes when."""

    weights, together = WEIGHTS, 1

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self.times: list[tuple[float, float]] = []

    def draw(
        self, drawings: Sequence[Drawing], *, ahead: Sequence[Ahead] = ()
    ) -> list[Drawn | Exception]:
        began = time.perf_counter()
        time.sleep(DRAWING)
        self.times.append((began, time.perf_counter()))
        images = (self._picture,)
        return [Drawn(images=images, denoised=4, denoise_seconds=DRAWING) for _ in drawings]


class _FarShelf:
    """Takes as long as a store that is far away."""

    def __init__(self, shelf: FileArtifactStore) -> None:
        self._shelf = shelf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shelf, name)

    def put(self, name: str, data: bytes, *, content_type: str) -> Stored:
        time.sleep(UPLOAD)
        return self._shelf.put(name, data, content_type=content_type)


def _pauses(folder: Path, picture: Image.Image, draw: Callable[[Workplace], None]) -> list[float]:
    device = _Device(picture)
    folder.mkdir()
    at = Workplace(
        holder="w1",
        jobs=SqliteJobStore(Database(folder / "illo.sqlite", clock=SystemClock())),
        artifacts=_FarShelf(FileArtifactStore(folder / "artifacts")),
        pipeline=device,
        terms=Terms(lease=timedelta(seconds=75)),
        pace=PACE,
        stopping=threading.Event(),
        hung=print,
        illo_version="0",
    )
    at.jobs.create([_a_job() for _ in range(JOBS)])
    draw(at)
    assert len(device.times) == JOBS
    ends, begins = [end for _, end in device.times], [begin for begin, _ in device.times]
    return [begin - end for end, begin in zip(ends, begins[1:], strict=False)]


def _at_the_desk(at: Workplace) -> None:
    Desk(at, held=lambda: None, changed=lambda job, rate: None, window=None).draw_due()


def _one_by_one(at: Workplace) -> None:
    while due := at.jobs.claimable(per_tenant=1):
        claimed = claim_job(due[0], at)
        assert claimed is not None
        run_job(claimed, at)


def _a_job() -> Job:
    scene = Scene(
        prompt="Mia under the bed", width=SIDE, height=SIDE, steps=4, guidance=2.5, seed=7,
        weights=WEIGHTS,
    )  # fmt: skip
    return enqueue(
        id=new_id("job"), tenant="local", scene=scene, recipe=recipe_of(scene),
        now=SystemClock().now(), retention=timedelta(days=1),
    )  # fmt: skip
