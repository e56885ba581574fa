"""The parts, in the order of their worth, each with the weights that it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.bench import Bench, Results

FULL_BLOCKS, FULL_T5 = (19, 38), 24
FEW_BLOCKS, FEW_T5 = (2, 2), 2  # what is equal in each block is equal in all
SMALL_BLOCKS, SMALL_T5 = (1, 1), 1
PACKED, PACKED_TIGHTER = "Q8_0", "Q4_0"

Measure = Callable[[Bench, Results], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One measurement, made by a process of its own."""

    name: str
    load: Callable[[], Measure]  # imports no more than it needs, and not before it has begun
    few_blocks: bool = False
    quantization: str = PACKED
    cold: bool = False  # whether its files are to come from the disk

    def bench(self, weights: Path, *, device: str, small: bool) -> Bench:
        """Say what it is measured on; `weights` is the folder that has all sets."""
        blocks, t5_blocks = (FEW_BLOCKS, FEW_T5) if self.few_blocks else (FULL_BLOCKS, FULL_T5)
        if small:
            blocks, t5_blocks = SMALL_BLOCKS, SMALL_T5
        width = "small" if small else "full"
        return Bench(
            weights=weights / f"{width}-{blocks[0]}-{blocks[1]}-{t5_blocks}-{self.quantization}",
            device=device,
            small=small,
            blocks=blocks,
            t5_blocks=t5_blocks,
            quantization=self.quantization,
        )


def _equality() -> Measure:
    from benchmarks.gpu.equality import measure

    return measure


def _memory(limit_gib: float, wish: str = "auto") -> Callable[[], Measure]:
    def load() -> Measure:
        from benchmarks.gpu.memory import measure
        from shared.settings import Residency

        return lambda bench, results: measure(
            bench, results, limit_gib=limit_gib, wish=Residency(wish)
        )

    return load


def _steps(name: str) -> Callable[[], Measure]:
    def load() -> Measure:
        from benchmarks.gpu import steps

        measures = {
            "steps": steps.measure,
            "batches": steps.measure_batches,
            "compiled": steps.measure_compiled,
        }
        return measures[name]

    return load


def _encoders() -> Measure:
    from benchmarks.gpu.encoders import measure

    return measure


def _start(bench: Bench, results: Results) -> None:
    from benchmarks.gpu.start import measure

    measure(bench, results)


def _start_stock(bench: Bench, results: Results) -> None:
    from benchmarks.gpu.start import measure_stock

    measure_stock(bench, results)


PARTS = {
    part.name: part
    for part in (
        Part(name="equality", load=_equality, few_blocks=True),
        Part(name="memory-22", load=_memory(22.2)),
        Part(name="memory-16", load=_memory(16.0)),
        Part(name="memory-16-offload", load=_memory(16.0, "offload")),
        Part(name="memory-12-q4", load=_memory(12.0), quantization=PACKED_TIGHTER),
        Part(name="steps", load=_steps("steps")),
        Part(name="start", load=lambda: _start, cold=True),
        Part(name="start-stock", load=lambda: _start_stock, cold=True),
        Part(name="batches", load=_steps("batches")),
        Part(name="encoders", load=_encoders),
        Part(name="compiled", load=_steps("compiled")),
    )
}


def parts_of(names: list[str]) -> list[Part]:
    """Choose parts by the beginnings of their names, or all; raises KeyError for none."""
    for name in names:
        if not any(part.startswith(name) for part in PARTS):
            raise KeyError(name)
    return [
        part
        for part in PARTS.values()
        if not names or any(part.name.startswith(name) for name in names)
    ]
