"""What must come out the same, on the device: to the bit, or how far it is off."""

import gc
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageChops

from benchmarks.gpu.bench import Bench, Results
from benchmarks.gpu.peers import load_transformer
from benchmarks.gpu.product import a_scene, draw, open_kontext, pipeline_of, rows_of, step
from benchmarks.report import Figure
from shared.scenes import Scene
from shared.settings import Residency
from worker.drawing import Save
from worker.pipeline.denoise import Row
from worker.pipeline.kontext import Kontext

STEPS = 4
TOGETHER = 2


def measure(bench: Bench, results: Results) -> None:
    """Tell each difference; 0 is equal to the bit."""
    kontext = open_kontext(bench)
    results.add(
        _difference("forward, against diffusers' own loading", forward(bench, kontext), "ppm"),
        _difference(f"forward, {TOGETHER} at once", shared_forward(bench, kontext), "ppm"),
        *(
            _difference(f"resumed after step {k}", resumed(bench, kontext, k), "of 255")
            for k in range(1, STEPS)
        ),
    )
    pictures = draw_both(kontext, scenes_of(bench))
    del kontext
    for residency in (Residency.STREAM_T5, Residency.OFFLOAD):
        _free(bench)
        other = draw_both(open_kontext(bench, residency=residency), scenes_of(bench))
        results.add(_difference(f"{residency} against resident", apart(pictures, other), "of 255"))
    _free(bench)
    shared = draw_together(open_kontext(bench, together=TOGETHER), scenes_of(bench))
    found = apart(pictures, shared)
    results.add(_difference(f"{TOGETHER} at once against each alone", found, "of 255"))


def scenes_of(bench: Bench) -> list[Scene]:
    """Name two scenes of one size."""
    names = ("the fox", "a whale")
    return [a_scene(bench, prompt=f"Mia and {name}", steps=STEPS) for name in names]


def forward(bench: Bench, kontext: Kontext) -> float:
    """Compare one forward with that of the file as diffusers loads it, in ppm of the largest."""
    rows = rows_of(kontext, scenes_of(bench)[:1])
    ours = velocity(pipeline_of(kontext).transformer, rows)
    stock = velocity(load_transformer(bench).to(bench.device), rows)
    return 1e6 * float((ours.float() - stock.float()).abs().max() / stock.abs().max())


def shared_forward(bench: Bench, kontext: Kontext) -> float:
    """Compare a forward that two scenes share with each alone, in ppm of the largest number."""
    scenes = scenes_of(bench)
    transformer, rows = pipeline_of(kontext).transformer, rows_of(kontext, scenes)
    shared = velocity(transformer, rows).float()
    alone = torch.cat([velocity(transformer, [row]) for row in rows]).float()
    return 1e6 * float((shared - alone).abs().max() / alone.abs().max())


def velocity(transformer: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Take a step and keep what the transformer gave."""
    kept: list[torch.Tensor] = []
    hook = transformer.register_forward_hook(lambda module, given, out: kept.append(out[0]))
    try:
        step(transformer, rows)
    finally:
        hook.remove()
    return kept[0]


def resumed(bench: Bench, kontext: Kontext, after: int) -> int:
    """Compare a drawing with the same one that goes on from what it saved after a step."""
    scene, kept = scenes_of(bench)[0], {}

    def keep(done: int, save: Save) -> None:
        kept[done] = save()

    [whole] = draw(kontext, [scene], on_step=keep)
    [again] = draw(kontext, [scene], resume=kept[after])
    assert again.resumed_at == after, f"it began at step {again.resumed_at}"
    return apart(whole.images, again.images)


def draw_both(kontext: Kontext, scenes: Sequence[Scene]) -> list[Image.Image]:
    """Draw scenes one after the other."""
    return [draw(kontext, [scene])[0].images[0] for scene in scenes]


def draw_together(kontext: Kontext, scenes: Sequence[Scene]) -> list[Image.Image]:
    """Draw scenes at once; they have to share the device's steps."""
    drawn = draw(kontext, scenes)
    assert all(each.together == len(scenes) for each in drawn), "they took turns"
    return [each.images[0] for each in drawn]


def apart(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> int:
    """Tell the largest difference of any channel of any pixel, of 255."""
    extrema: list[Any] = [
        ImageChops.difference(one, other).getextrema()
        for one, other in zip(some, others, strict=True)
    ]
    return max(int(most) for bands in extrema for _, most in bands)


def _difference(what: str, value: float, unit: str) -> Figure:
    return Figure(what=what, value=value, unit=unit, against="0 is equal to the bit")


def _free(bench: Bench) -> None:
    gc.collect()
    if bench.cuda:
        torch.cuda.empty_cache()
