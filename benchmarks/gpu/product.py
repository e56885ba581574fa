"""Kontext as the worker has it, and the few of its insides that are timed on their own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.bench import Bench
from shared.scenes import Reference, Scene, Weights
from shared.settings import Residency
from shared.vocabulary import Phase
from worker.drawing import Drawing, Drawn, Save
from worker.pipeline.denoise import Row, advance, conditions_of, first_row
from worker.pipeline.encode import Encoder
from worker.pipeline.kontext import Kontext
from worker.pipeline.start import Start, begin

OnProgress = Callable[[Phase, int, int], None]
OnStep = Callable[[int, Save], None]


def open_kontext(
    bench: Bench,
    *,
    start: Start | None = None,
    residency: Residency = Residency.RESIDENT,
    together: int = 1,
    on_stage: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Kontext:
    """Load the bench's weights as a worker does, if that was not begun before."""
    begun = start or begin(
        bench.weights, residency=residency, device=bench.device, together=together
    )
    return Kontext(begun, on_stage=on_stage)


def a_scene(bench: Bench, *, with_reference: bool = True, **changes: Any) -> Scene:
    """Ask for a picture of the bench's size, with a reference of the same."""
    scene = Scene(
        prompt="Mia hides under the bed, and the fox looks for her",
        width=bench.side,
        height=bench.side,
        steps=bench.steps,
        guidance=2.5,
        seed=7,
        references=(a_reference(bench.side),) if with_reference else (),
        weights=Weights(label="random", sha256="0" * 64),
    )
    return replace(scene, **changes)


def a_reference(side: int, *, number: int = 0) -> Reference:
    """Name a square picture; another number is another picture."""
    digest = f"{side:032x}{number:032x}"
    return Reference(
        asset=f"as_{number}", sha256=digest, artifact=f"{number}", generation=1,
        width=side, height=side,
    )  # fmt: skip


def a_picture(reference: Reference) -> Image.Image:
    """Draw by chance what a reference shows."""
    chance = np.random.default_rng(int(reference.sha256, 16))
    noise = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((reference.width, reference.height))


def draw(
    kontext: Kontext,
    scenes: Sequence[Scene],
    *,
    on_progress: OnProgress = lambda phase, done, of: None,
    on_step: OnStep = lambda done, save: None,
    resume: bytes | None = None,
) -> list[Drawn]:
    """Draw scenes at once; raises what ended one of them early."""
    ended = kontext.draw(
        [
            Drawing(
                scene=scene,
                read=a_picture,
                on_progress=on_progress,
                on_step=on_step,
                resume=resume,
            )
            for scene in scenes
        ]
    )
    return [_drawn(each) for each in ended]


def rows_of(kontext: Kontext, scenes: Sequence[Scene]) -> list[Row]:
    """Encode scenes and lay their images out, to be advanced by `step`."""
    rows = []
    with torch.no_grad():
        for scene in scenes:
            encoded = encoder_of(kontext).encode(scene, a_picture)
            conditions = conditions_of(pipeline_of(kontext), scene, encoded)
            rows += [
                first_row(pipeline_of(kontext), scene, seed, conditions) for seed in scene.seeds
            ]
    return rows


def step(transformer: Any, rows: Sequence[Row]) -> None:
    """Take a step, all rows at once, and put the rows back to where they stood."""
    stood = [(row.latents, row.step) for row in rows]
    with torch.no_grad():
        assert all(advance(transformer, rows)), "the latents are not numbers"
    for row, (latents, number) in zip(rows, stood, strict=True):
        row.latents, row.step = latents, number


def stepping(transformer: Any, rows: Sequence[Row]) -> Callable[[], None]:
    """Name a step to be timed."""
    return partial(step, transformer, rows)


def pipeline_of(kontext: Kontext) -> Any:
    """The pipeline of diffusers' parts inside."""
    return kontext._pipeline


def encoder_of(kontext: Kontext) -> Encoder:
    """What encodes and remembers inside."""
    return kontext._encoder


def _drawn(ended: Drawn | Exception) -> Drawn:
    if isinstance(ended, Exception):
        raise ended
    return ended
