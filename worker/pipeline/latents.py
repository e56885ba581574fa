"""Latents as bytes: what a drawing goes on from, in another process if need be."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from shared.errors import CheckpointRefused
from worker.pipeline.denoise import Row

FORMAT = "illo latents 1"
# A digest of everything stands before a safetensors file: a picture drawn from other bits would be
# another picture, and no error.
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8  # of the header's length, at the start of a safetensors file
_MAX_HEADER = 64 * 1024
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_latents(rows: Sequence[Row], *, recipe: str) -> bytes:
    """Write every image that has begun, and how many steps it has had."""
    begun = {str(index): row.latents.cpu() for index, row in enumerate(rows) if row.step}
    steps = json.dumps([row.step for row in rows])
    content = save(begun, metadata={"format": FORMAT, "recipe": recipe, "steps": steps})
    return sha256(content).digest() + content


def restore_latents(
    rows: Sequence[Row], content: bytes, *, recipe: str, step: int | None = None
) -> int:
    """Set the rows to where they stood when the bytes were written; tells the sum of their steps.

    Raises CheckpointRefused, and changes nothing, if the bytes are damaged or of another recipe,
    number of images, shape or precision, or of another step if one is named.
    """
    undamaged = _undamaged(content)
    header = _header(undamaged)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointRefused(f"it does not say that its format is {FORMAT!r}")
    if metadata.get("recipe") != recipe:
        raise CheckpointRefused("it was drawn after another recipe")
    steps = _steps(metadata.get("steps"), rows)
    if step is not None and sum(steps) != step:
        raise CheckpointRefused(f"it was drawn for {sum(steps)} steps, the job says {step}")
    begun = {str(index): row for index, row in enumerate(rows) if steps[index]}
    _check(header, begun)
    saved = _tensors(undamaged)
    for index, row in begun.items():
        row.latents, row.step = saved[index].to(row.latents.device), steps[int(index)]
    return sum(steps)


def _undamaged(content: bytes) -> bytes:
    digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if sha256(rest).digest() != digest:
        raise CheckpointRefused("its bytes are damaged, or those of something else")
    return rest


def _header(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if not 0 < length <= min(_MAX_HEADER, len(content) - _LENGTH_BYTES):
        raise CheckpointRefused("its header is not inside it")
    try:
        header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except (ValueError, RecursionError):
        raise CheckpointRefused("its header cannot be read") from None
    if not isinstance(header, dict):
        raise CheckpointRefused("its header cannot be read")
    return header


def _steps(text: object, rows: Sequence[Row]) -> list[int]:
    try:
        steps = json.loads(str(text))
    except (ValueError, RecursionError):
        raise CheckpointRefused("its steps cannot be read") from None
    fits = (
        isinstance(steps, list)
        and len(steps) == len(rows)
        and all(type(step) is int for step in steps)
        and all(
            0 <= step <= len(row.conditions.timesteps)
            for step, row in zip(steps, rows, strict=True)
        )
    )
    if not fits:
        raise CheckpointRefused(f"its steps are {steps!r:.80}, which this scene does not have")
    return list(steps)


def _check(header: Mapping[str, Any], begun: Mapping[str, Row]) -> None:
    """Compare what the file says of its tensors with what they must be, before torch reads any."""
    if set(header) != set(begun):
        raise CheckpointRefused("it does not hold the images that it says have begun")
    for index, row in begun.items():
        wanted = _DTYPES[row.latents.dtype], list(row.latents.shape)
        said = header[index] if isinstance(header[index], dict) else {}
        found = said.get("dtype"), said.get("shape")
        if found != wanted:
            # going on in another precision would not give the picture that either alone gives
            raise CheckpointRefused(f"image {index} is {found!r:.80}, this worker has {wanted}")


def _tensors(content: bytes) -> dict[str, torch.Tensor]:
    try:
        saved = load(content)
    except SafetensorError as error:
        raise CheckpointRefused(f"its tensors cannot be read: {error}") from None
    if not all(torch.isfinite(tensor).all() for tensor in saved.values()):
        raise CheckpointRefused("its latents are not numbers")
    return saved
