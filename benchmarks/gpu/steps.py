"""Seconds per step: the worker's, diffusers' over the same file, plain numbers, and the floors."""

import gc
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Results, seconds_of
from benchmarks.gpu.floors import (
    TERA,
    TEXT_TOKENS,
    Work,
    attention_rate,
    matmul_rate,
    peak_of,
    step_work,
)  # fmt: skip
from benchmarks.gpu.peers import dtype_of, load_transformer, step_times
from benchmarks.gpu.product import (
    a_reference,
    a_scene,
    open_kontext,
    pipeline_of,
    rows_of,
    stepping,
)
from benchmarks.report import Figure
from shared.scenes import Scene
from worker.pipeline.denoise import Row
from worker.pipeline.kontext import Kontext

GIB = 2**30
PICTURE_STEPS = 28  # what Kontext is asked for as a rule
TOGETHER = (1, 2, 4)
REFERENCE, ALONE = "with a reference", "without"


def measure(bench: Bench, results: Results) -> None:
    """Time one image's step in each of the three ways, side by side."""
    floors = _Floors(bench, results)
    kontext = open_kontext(bench)
    scenes = {
        REFERENCE: a_scene(bench),
        ALONE: a_scene(bench, with_reference=False),
    }
    rows = {name: rows_of(kontext, [scene]) for name, scene in scenes.items()}
    ours = {}
    for name, [row] in rows.items():
        ours[name] = _step_seconds(bench, kontext, [row])
        work = floors.work(scenes[name])
        results.add(
            Figure(what=f"work of a step, {name}", value=work.all / TERA, unit="TFLOP"),
            *floors.compared(f"illo, {name}", ours[name], work),
        )
    del kontext
    _freed(bench)
    transformer = load_transformer(bench).to(bench.device)
    _against(bench, results, "diffusers' GGUF", transformer, scenes, rows, ours)
    plain_bytes = 2 * sum(each.numel() for each in transformer.parameters())
    if bench.cuda and torch.cuda.mem_get_info()[0] < plain_bytes:
        results.note(f"plain bf16 takes {plain_bytes / GIB:.1f} GiB more than this card has free")
        return
    transformer.dequantize()
    _against(bench, results, f"plain {_named(bench)}", transformer, scenes, rows, ours)


def measure_batches(bench: Bench, results: Results) -> None:
    """Time steps that several images share, at two sizes, each with a reference of its size."""
    floors = _Floors(bench, results)
    kontext = open_kontext(bench)
    for side in (bench.side // 2, bench.side):
        scene = a_scene(bench, width=side, height=side, references=(a_reference(side),))
        alone = 0.0
        for together in TOGETHER:
            scene = replace(scene, count=together)
            rows = rows_of(kontext, [scene])
            try:
                seconds = _step_seconds(bench, kontext, rows)
            except torch.OutOfMemoryError as full:
                results.note(f"{side}², {together} together: no room: {full}")
                break
            rate = together / seconds / PICTURE_STEPS
            alone = alone or rate
            results.add(
                Figure(
                    what=f"{side}², {together} together", value=rate * 60, unit="images/min",
                    ratio=rate / alone, against=f"÷ one by one; {PICTURE_STEPS} steps, no decoding",
                ),
                *floors.compared(f"{side}², {together}", seconds, floors.work(scene)),
            )  # fmt: skip


def measure_compiled(bench: Bench, results: Results) -> None:
    """Time a step before and after torch has compiled the blocks, and the compiling."""
    kontext = open_kontext(bench)
    rows = rows_of(kontext, [a_scene(bench)])
    plain = _step_seconds(bench, kontext, rows)
    results.add(Figure(what="as it is", value=plain * 1000, unit="ms/step"))
    transformer = pipeline_of(kontext).transformer
    transformer.compile_repeated_blocks(fullgraph=True)
    first = seconds_of(bench.device, stepping(transformer, rows), repeats=1, warm_ups=0)
    results.add(Figure(what="first step, which compiles", value=first, unit="s"))
    compiled = _step_seconds(bench, kontext, rows)
    results.add(
        Figure(
            what="compiled", value=compiled * 1000, unit="ms/step", ratio=compiled / plain,
            against="÷ as it is",
        )
    )  # fmt: skip


class _Floors:
    """What the card can do at most, by its data sheet and by measurement."""

    def __init__(self, bench: Bench, results: Results) -> None:
        self._bench = bench
        name = torch.cuda.get_device_name() if bench.cuda else "CPU"
        self._sheet = peak_of(name)
        if self._sheet is None:
            results.note(f"{name}: not in the table of peaks, so there is no floor by data sheet")
        else:
            results.add(Figure(what=f"{name}, data sheet", value=self._sheet, unit="TFLOPS"))
        dtype, sizes = dtype_of(bench), bench.sizes.flux
        side = 256 if bench.small else 8192
        tokens = TEXT_TOKENS + 2 * (bench.side // 16) ** 2
        self._linear = matmul_rate(bench.device, dtype, side=side)
        self._attention = attention_rate(bench.device, dtype, sizes=sizes, tokens=tokens)
        told = f"{_named(bench)}, random numbers"
        results.add(
            Figure(what=f"product of {side}²", value=self._linear, unit="TFLOPS", against=told),
            Figure(
                what=f"attention over {tokens} tokens", value=self._attention, unit="TFLOPS",
                against=told,
            ),
        )  # fmt: skip

    def work(self, scene: Scene) -> Work:
        references = sum(each.width * each.height for each in scene.references)
        pixels = scene.width * scene.height
        sizes = self._bench.sizes.flux
        return step_work(sizes, pixels=pixels, reference_pixels=references, images=scene.count)

    def compared(self, what: str, seconds: float, work: Work) -> list[Figure]:
        measured = (work.linear / self._linear + work.attention / self._attention) / TERA
        floors = {"measured rates": measured}
        if self._sheet is not None:
            floors["data sheet"] = work.all / self._sheet / TERA
        return [
            Figure(
                what=f"{what}, a step", value=seconds, unit="s", ratio=seconds / floor,
                against=f"÷ floor by {name}, {floor * 1000:.0f} ms",
            )
            for name, floor in floors.items()
        ]  # fmt: skip


def _step_seconds(bench: Bench, kontext: Kontext, rows: Sequence[Row]) -> float:
    act = stepping(pipeline_of(kontext).transformer, rows)
    return seconds_of(bench.device, act, repeats=bench.steps)


def _against(
    bench: Bench,
    results: Results,
    name: str,
    transformer: Any,
    scenes: dict[str, Scene],
    rows: dict[str, list[Row]],
    ours: dict[str, float],
) -> None:
    for case, scene in scenes.items():
        # the first step warms up, so one more is taken
        longer = a_scene(bench, with_reference=bool(scene.references), steps=bench.steps + 2)
        seconds = statistics.median(step_times(bench, transformer, longer, rows[case][0]))
        results.add(
            Figure(
                what=f"{name}, {case}, a step", value=seconds, unit="s",
                ratio=seconds / ours[case], against="÷ illo",
            )
        )  # fmt: skip


def _named(bench: Bench) -> str:
    return str(dtype_of(bench)).removeprefix("torch.")


def _freed(bench: Bench) -> None:
    gc.collect()
    if bench.cuda:
        torch.cuda.empty_cache()
