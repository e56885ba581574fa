"""What goes before and after the steps: prompts through T5, references and pictures by the VAE."""

import torch

from benchmarks.gpu.bench import Bench, Results, seconds_of
from benchmarks.gpu.floors import TEXT_TOKENS
from benchmarks.gpu.product import (
    a_picture,
    a_reference,
    a_scene,
    encoder_of,
    open_kontext,
    pipeline_of,
    rows_of,
)
from benchmarks.report import Figure
from worker.pipeline.decode import decode
from worker.pipeline.residency import set_tiles

MIB = 2**20
PROMPTS = (1, 8)
REPEATS = 5


def measure(bench: Bench, results: Results) -> None:
    """Time T5 for one prompt and for several, and the VAE whole and in tiles."""
    kontext = open_kontext(bench)
    pipeline = pipeline_of(kontext)
    alone = 0.0
    for count in PROMPTS:
        prompts = [f"Mia and the fox, page {number}" for number in range(count)]

        def read(prompts: list[str] = prompts) -> None:
            with torch.no_grad():
                pipeline._get_t5_prompt_embeds(
                    prompt=prompts, max_sequence_length=TEXT_TOKENS, device=bench.device
                )

        seconds = seconds_of(bench.device, read, repeats=REPEATS)
        alone = alone or seconds
        results.add(
            Figure(
                what=f"T5, {count} of {TEXT_TOKENS} tokens", value=seconds * 1000, unit="ms",
                ratio=seconds / alone / count, against="÷ one by one",
            )
        )  # fmt: skip
    scene = a_scene(bench)
    [row] = rows_of(kontext, [scene])
    picture, encoder = a_picture(a_reference(bench.side)), encoder_of(kontext)

    def look() -> None:
        with torch.no_grad():
            encoder._encode_picture(picture)

    def show() -> None:
        with torch.no_grad():
            decode(pipeline, scene, row.latents)

    whole: dict[str, float] = {}
    for way, tiled in (("whole", False), ("in tiles", True)):
        set_tiles(pipeline, tiled=tiled)
        for name, act in (("reference encoded", look), ("picture decoded", show)):
            _begin_peak(bench)
            seconds = seconds_of(bench.device, act, repeats=REPEATS)
            whole.setdefault(name, seconds)
            results.add(
                Figure(
                    what=f"VAE, {name} {way}", value=seconds * 1000, unit="ms",
                    ratio=seconds / whole[name], against="÷ whole",
                )
            )  # fmt: skip
            if bench.cuda:
                beside = _peak_beside(bench)
                results.add(Figure(what="  memory beside weights", value=beside / MIB, unit="MiB"))


def _begin_peak(bench: Bench) -> None:
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)


def _peak_beside(bench: Bench) -> int:
    # what lies there now lay there before: weights, and the latents of one picture
    peak = torch.cuda.max_memory_allocated(bench.device)
    return int(peak - torch.cuda.memory_allocated(bench.device))
