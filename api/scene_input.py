"""Make a Scene, with nothing left to choose, from what a request says about it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from api.problems import Fault, pointer
from api.requests import LARGEST_SIDE, SIDE_STEP, SMALLEST_SIDE, SceneFields
from shared.assets import Asset
from shared.scenes import Reference, Scene, Weights


@dataclass
class SceneRefused(Exception):
    """A scene that cannot be drawn as asked; pointers start at the scene's fields."""

    faults: Sequence[Fault]


def resolve_scene(
    fields: SceneFields,
    *,
    references: Mapping[str, Asset],
    weights: Weights,
    usual_pixels: int,
    max_pixels: int,
    seed: int,
) -> Scene:
    """Fill in what the request left open; `seed` is used if it brings none.

    Raises SceneRefused with every fault.
    """
    faults = [*_unknown(fields.references, references), *_wrong_size(fields, max_pixels)]
    if faults:
        raise SceneRefused(faults)
    pinned = tuple(pin(references[asset]) for asset in fields.references)
    width, height = _size(fields, pinned, usual_pixels, max_pixels)
    return Scene(
        prompt=fields.prompt,
        width=width,
        height=height,
        steps=fields.steps,
        guidance=float(fields.guidance),
        seed=seed if fields.seed is None else fields.seed,
        count=fields.count,
        format=fields.format,
        references=pinned,
        weights=weights,
    )


def size_like(width: int, height: int, pixels: int, max_pixels: int) -> tuple[int, int]:
    """Find sides of about this shape and about so many pixels that a scene accepts."""
    scale = sqrt(min(pixels, max_pixels) / (width * height))
    scale = min(scale, LARGEST_SIDE / max(width, height))
    long, short = sorted((_side(width * scale), _side(height * scale)), reverse=True)
    while long * short > max_pixels:
        long, short = sorted((long - SIDE_STEP, short), reverse=True)
    return (long, short) if width >= height else (short, long)


def pin(asset: Asset) -> Reference:
    """Name an asset by its content and generation, so that nothing can change under a job."""
    return Reference(
        asset=asset.id,
        sha256=asset.sha256,
        artifact=asset.artifact,
        generation=asset.generation,
        width=asset.width,
        height=asset.height,
    )


def _unknown(wanted: Sequence[str], known: Mapping[str, Asset]) -> list[Fault]:
    return [
        Fault(pointer=pointer("references", place), detail="there is no such asset; upload it")
        for place, asset in enumerate(wanted)
        if asset not in known
    ]


def _wrong_size(fields: SceneFields, max_pixels: int) -> list[Fault]:
    if fields.width is None and fields.height is None:
        return []
    if fields.width is None or fields.height is None:
        missing = "width" if fields.width is None else "height"
        return [Fault(pointer=pointer(missing), detail="give both sides or neither")]
    area = fields.width * fields.height
    if area > max_pixels:
        detail = f"{fields.width} × {fields.height} is {area:,} pixels; at most {max_pixels:,}"
        return [Fault(pointer=pointer("width"), detail=detail)]
    return []


def _size(
    fields: SceneFields, references: Sequence[Reference], pixels: int, max_pixels: int
) -> tuple[int, int]:
    if fields.width is not None and fields.height is not None:
        return fields.width, fields.height
    if references:
        return size_like(references[0].width, references[0].height, pixels, max_pixels)
    return size_like(1, 1, pixels, max_pixels)


def _side(length: float) -> int:
    stepped = round(length / SIDE_STEP) * SIDE_STEP
    return max(SMALLEST_SIDE, min(LARGEST_SIDE, stepped))
