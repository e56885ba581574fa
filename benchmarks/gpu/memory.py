"""Peaks of memory under a smaller card's limit, against the plan, and how much is moved."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.bench import Bench, Results
from benchmarks.gpu.product import a_scene, draw, open_kontext, pipeline_of
from benchmarks.report import Figure
from shared.errors import CardTooSmall, OutOfMemory
from shared.settings import Residency
from shared.vocabulary import Phase
from worker.pipeline.model_bytes import models_in
from worker.pipeline.plan import CONTEXT_BYTES, LargestJob, Memory, ModelBytes, Plan, plan
from worker.pipeline.residency import set_tiles
from worker.pipeline.start import DTYPES
from worker.pipeline.weights.opening import open_weights
from worker.pipeline.weights.place import LocalPlace

GIB, MIB = 2**30, 2**20
JOBS = 3  # the first one may move what the others find
CARDS_GIB = (8.0, 12.0, 16.0, 22.2, 40.0, 80.0)


def measure(
    bench: Bench, results: Results, *, limit_gib: float, wish: Residency = Residency.AUTO
) -> None:
    """Draw under a limit as the plan for that memory says, and compare its sums."""
    models = models_of(bench)
    for size in CARDS_GIB:
        results.note(f"planned for {size:g} GiB: {_told(bench, models, size)}")
    try:
        planned = plan_for(bench, models, limit_gib, wish)
    except CardTooSmall as refusal:
        results.note(f"not drawn: {refusal}")
        return
    limit_memory(bench, limit_gib)
    kontext = open_kontext(bench, residency=planned.residency)
    pipeline = pipeline_of(kontext)
    set_tiles(pipeline, tiled=planned.tiled)
    before = places(pipeline)
    for number in range(1, JOBS + 1):
        peaks = PhasePeaks(bench)
        scene = a_scene(bench, seed=number, prompt=f"Mia and the fox, page {number}")
        with Moved() as moved:
            try:
                draw(kontext, [scene], on_progress=peaks.hear)
            except OutOfMemory as full:
                results.note(f"job {number} had no room: {full}")
                return
        peaks.end()
        results.add(*_moved(number, moved, models))
    same = before == places(pipeline)
    results.note(f"after {JOBS} jobs every weight lies {'where it lay' if same else 'elsewhere'}")
    results.add(*_compared(bench, planned, peaks.found))
    if kontext.residency is not planned.residency:
        results.note(f"it stepped down from {planned.residency} to {kontext.residency}")


def plan_for(
    bench: Bench, models: ModelBytes, limit_gib: float, wish: Residency = Residency.AUTO
) -> Plan:
    """Plan for a card of that memory; a CPU's is not counted."""
    area = bench.side**2
    return plan(
        wish,
        memory=Memory(bytes=int(limit_gib * GIB) if bench.cuda else None),
        weights=models,
        largest=LargestJob(pixels=area, references=(area,)),
    )


def limit_memory(bench: Bench, limit_gib: float) -> None:
    """Let this process have no more of the card than a smaller one would, the context included."""
    if bench.cuda:
        _, total = torch.cuda.mem_get_info(bench.device)
        allowed = limit_gib * GIB - CONTEXT_BYTES
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), bench.device)


def models_of(bench: Bench) -> ModelBytes:
    """Say what the bench's weights take on its device."""
    opened, _ = open_weights(LocalPlace(bench.weights))
    element = DTYPES[torch.device(bench.device).type].itemsize
    return models_in(opened, element_bytes=element)


def places(pipeline: Any) -> list[tuple[str, int]]:
    """Tell where each weight lies."""
    return [
        (str(each.device), each.data_ptr())
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for each in part.parameters()
    ]


class Moved(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes that are copied from one device to another, by this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do what is asked; count it if it is a copy across."""
        copied = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}.get(func)
        # looked at before: afterwards a copy in place is on both sides
        source = None if copied is None else args[copied].device
        given = func(*args, **(kwargs or {}))
        if source is not None and given.device != source:
            self.bytes += given.nbytes
            self.largest = max(self.largest, given.nbytes)
        return given


class PhasePeaks:
    """The most that tensors took in each phase of one drawing; nothing without a card."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._phase: Phase | None = None
        self.found: dict[Phase, int] = {}

    def hear(self, phase: Phase, done: int, of: int) -> None:
        """Close a phase when the next one begins."""
        if phase is not self._phase:
            self.end()
            self._phase = phase

    def end(self) -> None:
        """Close the last phase."""
        if not self._bench.cuda:
            return
        if self._phase is not None:
            self.found[self._phase] = torch.cuda.max_memory_allocated(self._bench.device)
        torch.cuda.reset_peak_memory_stats(self._bench.device)


def _moved(number: int, moved: Moved, weights: ModelBytes) -> list[Figure]:
    return [
        Figure(
            what=f"job {number}, moved between host and device", value=moved.bytes / MIB,
            unit="MiB", ratio=moved.bytes / weights.all, against="÷ all weights",
        ),
        Figure(what="  the largest at once", value=moved.largest / MIB, unit="MiB"),
    ]  # fmt: skip


def _compared(bench: Bench, planned: Plan, found: Mapping[Phase, int]) -> list[Figure]:
    if not bench.cuda:
        return []
    reserved = torch.cuda.max_memory_reserved(bench.device)
    free, total = torch.cuda.mem_get_info(bench.device)
    context = total - free - torch.cuda.memory_reserved(bench.device)
    figures = [
        Figure(what="context, and whoever else is on the card", value=context / GIB, unit="GiB"),
        Figure(
            what="reserved and context at the peak", value=(reserved + context) / GIB, unit="GiB",
            ratio=(reserved + context) / planned.peak,
            against=f"÷ planned {planned.peak / GIB:.2f} GiB",
        ),
    ]  # fmt: skip
    for phase, most in found.items():
        expected = planned.peaks[phase]
        figures.append(
            Figure(
                what=f"{phase}, allocated and context", value=(most + context) / GIB, unit="GiB",
                ratio=(most + context) / expected, against=f"÷ planned {expected / GIB:.2f} GiB",
            )
        )  # fmt: skip
    return figures


def _told(bench: Bench, models: ModelBytes, size: float) -> str:
    try:
        return plan_for(bench, models, size).reason
    except CardTooSmall as refusal:
        return f"refused: {refusal}"
