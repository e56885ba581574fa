"""Draw with models in the making, by the very steps that a worker takes; and lay out a sheet."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from PIL import Image

from shared.scenes import Reference, Scene, Weights
from worker.pipeline.artist.captions import TEXT_TOKENS, say_setting
from worker.pipeline.artist.characters import Setting, draw_character
from worker.pipeline.artist.drawings import SIZES, draw_plain
from worker.pipeline.artist.flow_training import Tokenizers
from worker.pipeline.artist.shapes import Reader
from worker.pipeline.decode import decode
from worker.pipeline.denoise import advance, conditions_of, first_row
from worker.pipeline.encode import Encoder
from worker.pipeline.tiny_shapes import SCHEDULER_CONFIG

CHARACTERS = 4  # a row each
STEPS = 8
GAP = 4  # pixels between pictures
_WEIGHTS = Weights(label="in the making", sha256="0" * 64)


def assembled(vae: Any, reader: Reader, tokenizers: Tokenizers) -> FluxKontextPipeline:
    """Put models together as a worker's pipeline."""
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER_CONFIG),
        vae=vae,
        text_encoder=reader.clip,
        tokenizer=tokenizers.clip,
        text_encoder_2=reader.t5,
        tokenizer_2=tokenizers.t5,
        transformer=reader.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sketch(
    pipeline: FluxKontextPipeline,
    prompt: str,
    references: Sequence[Image.Image],
    *,
    size: tuple[int, int],
    seed: int,
    steps: int = STEPS,
) -> Image.Image:
    """Draw one picture after a prompt and some references."""
    pictures = {sha256(each.tobytes()).hexdigest(): each for each in references}
    scene = Scene(
        prompt=prompt,
        width=size[0],
        height=size[1],
        steps=steps,
        guidance=2.5,
        seed=seed,
        references=tuple(_reference(digest, each) for digest, each in pictures.items()),
        weights=_WEIGHTS,
    )
    with torch.no_grad():
        encoder = Encoder(pipeline, text_tokens=TEXT_TOKENS)
        encoded = encoder.encode(scene, lambda reference: pictures[reference.sha256])
        row = first_row(pipeline, scene, seed, conditions_of(pipeline, scene, encoded))
        while not row.done:
            advance(pipeline.transformer, [row])
        return decode(pipeline, scene, row.latents)


def draw_sheet(pipeline: FluxKontextPipeline, path: Path) -> None:
    """Draw characters never taught, each in every setting; the first column is the reference."""
    chance = Random(1)  # noqa: S311
    side = max(SIZES[0]) + GAP
    settings = list(Setting)
    sheet = Image.new("RGB", (side * (len(settings) + 1), side * CHARACTERS), "white")
    for row in range(CHARACTERS):
        reference = draw_plain(draw_character(chance, held_out=True), SIZES[0], chance)
        sheet.paste(reference, (0, row * side))
        for column, setting in enumerate(settings, start=1):
            prompt = f"the character {say_setting(setting, chance)}"
            drawn = sketch(pipeline, prompt, [reference], size=SIZES[0], seed=row)
            sheet.paste(drawn, (column * side, row * side))
    beside = path.with_name(f".{path.name}")
    sheet.save(beside, format="PNG")
    beside.replace(path)


def _reference(digest: str, picture: Image.Image) -> Reference:
    return Reference(
        asset="",
        sha256=digest,
        artifact="",
        generation=0,
        width=picture.width,
        height=picture.height,
    )
