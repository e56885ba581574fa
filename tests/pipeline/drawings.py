"""Scenes to draw, references to keep to, and a look at what came of them."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from shared.scenes import Reference, Scene, Weights
from shared.vocabulary import Phase
from worker.drawing import Ahead, Drawing, Drawn, ReadReference, Save
from worker.pipeline.kontext import Kontext

Progress = tuple[Phase, int, int]


def a_scene(**changes: Any) -> Scene:
    scene = Scene(
        prompt="Mia hides under the bed",
        width=64,
        height=64,
        steps=2,
        guidance=2.5,
        seed=7,
        weights=Weights(label="any", sha256="0" * 64),
    )
    return replace(scene, **changes)


def a_reference(colour: str = "crimson", width: int = 96, height: int = 64) -> Reference:
    """Name a picture that `picture_of` draws: its asset is its colour."""
    content = sha256(f"{colour} {width} {height}".encode()).hexdigest()
    return Reference(
        asset=colour,
        sha256=content,
        artifact=f"assets/{content}",
        generation=1,
        width=width,
        height=height,
    )


def picture_of(reference: Reference) -> Image.Image:
    """Draw what a reference shows: an ellipse of its colour on a pale ground."""
    width, height = reference.width, reference.height
    picture = Image.new("RGB", (width, height), "khaki")
    ImageDraw.Draw(picture).ellipse((5, 5, width // 2, height // 2), fill=reference.asset)
    return picture


def stock(kontext: Kontext, scene: Scene, read: ReadReference = picture_of) -> Image.Image:
    """Draw with nothing of ours but the loaded models."""
    pictures = [read(reference) for reference in scene.references]
    found: Image.Image = kontext._pipeline(
        prompt=scene.prompt,
        image=pictures[0] if pictures else None,
        height=scene.height,
        width=scene.width,
        max_area=scene.width * scene.height,
        _auto_resize=False,
        num_inference_steps=scene.steps,
        guidance_scale=scene.guidance,
        generator=torch.Generator("cpu").manual_seed(scene.seed),
        max_sequence_length=kontext.plan.widths.text_tokens,
    ).images[0]
    return found


def a_drawing(scene: Scene, **changes: Any) -> Drawing:
    drawing = Drawing(scene=scene, read=picture_of, on_progress=lambda *_: None)
    return replace(drawing, **changes)


def in_advance(*scenes: Scene) -> list[Ahead]:
    """Announce scenes that will be drawn soon."""
    return [Ahead(scene=scene, read=picture_of) for scene in scenes]


def draw(kontext: Kontext, scene: Scene, **changes: Any) -> Drawn:
    """Draw one scene; what became its outcome is raised."""
    [outcome] = kontext.draw([a_drawing(scene, **changes)])
    return drawn(outcome)


def drawn(outcome: Drawn | Exception) -> Drawn:
    """Expect images."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def pixels(outcome: Drawn | Exception) -> list[bytes]:
    """Give the bytes of each image, to compare them to the bit."""
    return [image.tobytes() for image in drawn(outcome).images]


def saves_of(kontext: Kontext, scene: Scene) -> tuple[Drawn, dict[int, bytes]]:
    """Draw a scene, and keep its latents after every step."""
    kept: dict[int, bytes] = {}

    def keep(step: int, save: Save) -> None:
        kept[step] = save()

    return draw(kontext, scene, on_step=keep), kept


def stopping_at(step: int, wish: Exception) -> Callable[[int, Save], None]:
    """Raise a wish at a step."""

    def stop(done: int, save: Save) -> None:
        if done == step:
            raise wish

    return stop


def farthest(one: Image.Image, other: Image.Image) -> int:
    """Give the largest difference of two pictures' numbers, 0 to 255."""
    return int(np.abs(_numbers(one) - _numbers(other)).max())


def difference(one: Image.Image, other: Image.Image) -> float:
    """Give the mean difference of two pictures' numbers, 0 to 255."""
    return float(np.abs(_numbers(one) - _numbers(other)).mean())


def _numbers(picture: Image.Image) -> npt.NDArray[np.int16]:
    return np.asarray(picture).astype(np.int16)
