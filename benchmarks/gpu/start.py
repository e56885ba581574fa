"""From the start of the process to the first image, stage by stage, and to the second.

Nothing that takes time is imported at the top: the process's own imports are part of what is told.
"""

import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Results, synchronize
from benchmarks.report import Figure
from shared.settings import Residency
from shared.stages import Stages
from worker.pipeline.weights.fetching import Fetching

PRODUCT, STOCK = "start", "start-stock"
FIRST, ALL, SECOND = "first image", "all, to the first image", "another image, encoding included"
PYTHON, IMPORTS = "python, and what the command imports", "torch, diffusers, transformers imported"
HOST, CHILDREN = "peak host memory", "peak host memory, of the largest child"
GIB = 2**30
# What every record of a log has; the rest is what an event says about itself.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


def measure(bench: Bench, results: Results) -> None:
    """Start as a worker does, and draw."""
    stages = Spans()
    # as the worker does: weights are on their way while libraries are imported
    fetching = Fetching(str(bench.weights))
    stages.done(PYTHON)
    with _hearing("worker") as events:
        from worker.pipeline.start import begin

        start = begin(fetching, residency=Residency.RESIDENT, device=bench.device)
        from benchmarks.gpu.product import a_scene, draw, open_kontext

        stages.done(IMPORTS)
        kontext = open_kontext(bench, start=start, on_stage=stages.hear)
        synchronize(bench.device)
        stages.done("ready")

    def picture(number: int) -> None:
        draw(kontext, [a_scene(bench, prompt=f"Mia and the fox, page {number}")])

    _draw_two(bench, results, stages, picture)
    for event in events:
        results.note(event)


def measure_stock(bench: Bench, results: Results) -> None:
    """Start as published recipes do: one file after the other, T5 unpacked, models offloaded."""
    stages = Spans()
    stages.done(PYTHON)
    from benchmarks.gpu.peers import (
        draw_once,
        load_encoder,
        load_rest,
        load_transformer,
        put_together,
    )
    from benchmarks.gpu.product import a_scene

    stages.done(IMPORTS)
    transformer = load_transformer(bench)
    stages.done("transformer, from_single_file")
    encoder = load_encoder(bench)
    stages.done("T5, unpacked")
    pipeline = put_together(**load_rest(bench), transformer=transformer, text_encoder_2=encoder)
    pipeline.enable_model_cpu_offload(device=bench.device)
    stages.done("the rest")

    def picture(number: int) -> None:
        draw_once(pipeline, a_scene(bench, prompt=f"Mia and the fox, page {number}"))

    _draw_two(bench, results, stages, picture)


def evict(folder: Path) -> None:
    """Let the system forget what it has cached of these files, so that they come from the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Spans:
    """Stages that may come back: each is told once, with all of its time."""

    def __init__(self) -> None:
        self._stages = Stages()
        self.seconds: dict[str, float] = {}
        self._going_on: str | None = None

    def hear(self, stage: str, fraction: float) -> None:
        """Let a stage end when another begins."""
        if self._going_on is not None and self._going_on != stage:
            self.done(self._going_on)
        self._going_on = stage

    def done(self, name: str) -> None:
        """Note that a stage has ended, or has for now."""
        self._stages.done(name)
        before = self.seconds.get(name, 0.0)
        self.seconds[name] = before + self._stages.seconds()[name]


class _Events(logging.Handler):
    """Keeps what the worker's own code logs of its start."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the event and its fields."""
        fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        told = ", ".join(f"{name}={value}" for name, value in fields.items())
        self.heard.append(f"log: {record.getMessage()}: {told}")


@contextmanager
def _hearing(name: str) -> Iterator[list[str]]:
    events, logger = _Events(), logging.getLogger(name)
    level = logger.level
    logger.addHandler(events)
    logger.setLevel(logging.INFO)
    try:
        yield events.heard
    finally:
        logger.removeHandler(events)
        logger.setLevel(level)


def _draw_two(bench: Bench, results: Results, stages: Spans, picture: Callable[[int], Any]) -> None:
    picture(1)
    synchronize(bench.device)
    stages.done(FIRST)
    picture(2)
    synchronize(bench.device)
    stages.done(SECOND)
    seconds = dict(stages.seconds)
    another = seconds.pop(SECOND)
    told = seconds | {ALL: sum(seconds.values()), SECOND: another}
    results.note(f"images of {bench.side}² in {bench.steps} steps with a reference")
    for stage, taken in told.items():
        results.add(_figure(results, stage, taken, "s"))
    for what, who in ((HOST, resource.RUSAGE_SELF), (CHILDREN, resource.RUSAGE_CHILDREN)):
        kibibytes = resource.getrusage(who).ru_maxrss
        results.add(_figure(results, what, kibibytes * 1024 / GIB, "GiB"))


def _figure(results: Results, what: str, value: float, unit: str) -> Figure:
    peer = results.peer(PRODUCT, what) if results.part == STOCK else None
    if not peer:
        return Figure(what=what, value=value, unit=unit)
    return Figure(what=what, value=value, unit=unit, ratio=value / peer, against="÷ illo's start")
