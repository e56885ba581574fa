"""Denoise images step by step; several that share their shapes take a step as one batch.

Each image keeps its own place in its own schedule, so that one that goes on from saved latents can
share the device with one that begins. With one image the numbers are those of the stock pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from diffusers.utils.torch_utils import randn_tensor

from shared.scenes import Scene
from worker.pipeline.encode import Encoded
from worker.pipeline.patches import patches_over

TIMESTEPS = 1000  # the transformer takes the time as a fraction of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What one scene's images have in common while they are denoised."""

    encoded: Encoded
    guidance: float
    sigmas: torch.Tensor  # (steps + 1,), from 1 down to 0
    timesteps: torch.Tensor  # (steps,)
    reference_tokens: torch.Tensor  # (tokens, 64)
    ids: torch.Tensor  # (tokens of all pictures, 3): which picture, which row, which column
    sizes: tuple[tuple[int, int], ...]  # rows and columns of each picture's tokens


@dataclass(slots=True, kw_only=True)
class Row:
    """One image in the making: its latents after so many steps."""

    conditions: Conditions
    latents: torch.Tensor  # (tokens, 64)
    step: int = 0

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.step == len(self.conditions.timesteps)


def conditions_of(pipeline: FluxKontextPipeline, scene: Scene, encoded: Encoded) -> Conditions:
    """Lay out the schedule and the tokens of one scene; its references follow in their order."""
    device, dtype = encoded.prompt.device, encoded.prompt.dtype
    height, width = patches_over(pipeline, scene)
    sizes = [(height, width), *((r.shape[1] // 2, r.shape[2] // 2) for r in encoded.references)]
    channels = pipeline.transformer.config.in_channels
    tokens = [torch.empty(0, channels, device=device, dtype=dtype)]
    for latents in encoded.references:
        tokens.append(pipeline._pack_latents(latents[None], 1, *latents.shape)[0])
    ids = [pipeline._prepare_latent_image_ids(1, *size, device, dtype) for size in sizes]
    for number, own in enumerate(ids):
        own[..., 0] = number  # 0 is the picture that is drawn
    sigmas, timesteps = _schedule(pipeline, scene.steps, height * width, device)
    return Conditions(
        encoded=encoded,
        guidance=scene.guidance,
        sigmas=sigmas,
        timesteps=timesteps,
        reference_tokens=torch.cat(tokens),
        ids=torch.cat(ids),
        sizes=tuple(sizes),
    )


def first_row(
    pipeline: FluxKontextPipeline, scene: Scene, seed: int, conditions: Conditions
) -> Row:
    """Begin one image with the noise of its seed."""
    height, width = patches_over(pipeline, scene)
    channels = pipeline.transformer.config.in_channels // 4
    prompt = conditions.encoded.prompt
    noise = randn_tensor(
        (1, channels, 2 * height, 2 * width),
        # on the CPU, so that a seed means the same on every device
        generator=torch.Generator("cpu").manual_seed(seed),
        device=prompt.device,
        dtype=prompt.dtype,
    )
    packed = pipeline._pack_latents(noise, 1, channels, 2 * height, 2 * width)[0]
    return Row(conditions=conditions, latents=packed)


def advance(transformer: Any, rows: Sequence[Row]) -> list[bool]:
    """Take the next step of rows whose sizes are the same; tells of each whether it is numbers.

    One that is not stays where it was. All of them do if the device has no memory for the step.
    """
    shared = rows[0].conditions
    latents = torch.stack([row.latents for row in rows])
    seen = latents
    if len(shared.reference_tokens):
        references = torch.stack([row.conditions.reference_tokens for row in rows])
        seen = torch.cat([latents, references], dim=1)
    encoded = [row.conditions.encoded for row in rows]
    prompt = torch.stack([each.prompt for each in encoded])
    times = torch.stack([row.conditions.timesteps[row.step] for row in rows])
    velocity = transformer(
        hidden_states=seen,
        timestep=times.to(latents.dtype) / TIMESTEPS,
        guidance=_guidance(transformer, rows, latents.device),
        pooled_projections=torch.stack([each.pooled for each in encoded]),
        encoder_hidden_states=prompt,
        txt_ids=torch.zeros(prompt.shape[1], 3, device=prompt.device, dtype=prompt.dtype),
        img_ids=shared.ids,
        return_dict=False,
    )[0][:, : latents.shape[1]]
    moved = [_moved(row, own) for row, own in zip(rows, velocity, strict=True)]
    finite: list[bool] = torch.stack([torch.isfinite(each).all() for each in moved]).tolist()
    for row, latents, fine in zip(rows, moved, finite, strict=True):
        if fine:
            row.latents, row.step = latents, row.step + 1
    return finite


def _moved(row: Row, velocity: torch.Tensor) -> torch.Tensor:
    """Take Euler's step to the next sigma."""
    sigmas = row.conditions.sigmas
    # the difference is a scalar tensor: multiplied with bfloat16 it stays that
    ahead = (sigmas[row.step + 1] - sigmas[row.step]) * velocity
    return (row.latents.float() + ahead).to(velocity.dtype)


def _guidance(transformer: Any, rows: Sequence[Row], device: torch.device) -> torch.Tensor | None:
    if not transformer.config.guidance_embeds:
        return None
    wanted = [row.conditions.guidance for row in rows]
    return torch.tensor(wanted, device=device, dtype=torch.float32)


def _schedule(
    pipeline: FluxKontextPipeline, steps: int, tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift the sigmas by the number of tokens, as the model was trained."""
    scheduler = pipeline.scheduler
    config = scheduler.config
    shift = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift, device=device)
    return scheduler.sigmas, scheduler.timesteps
