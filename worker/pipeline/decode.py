"""Turn denoised latents into a picture that shows something."""

from typing import Any

import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from shared.errors import BlankImage
from shared.scenes import Scene
from worker.pipeline.patches import patch_side, patches_over

FLAT = 2  # of 255: a picture whose channels span no more than this shows nothing


def decode(pipeline: FluxKontextPipeline, scene: Scene, latents: torch.Tensor) -> Image.Image:
    """Decode one image's latents, (tokens, 64); once more in float32 if nothing can be seen.

    Raises BlankImage if that shows nothing either.
    """
    try:
        return _decode(pipeline, scene, latents)
    except BlankImage:
        dtype = pipeline.vae.dtype
        if dtype is torch.float32:
            raise
    # half precisions overflow in the VAE before they do anywhere else
    pipeline.vae.to(torch.float32)
    try:
        return _decode(pipeline, scene, latents)
    finally:
        pipeline.vae.to(dtype)


def _decode(pipeline: FluxKontextPipeline, scene: Scene, latents: torch.Tensor) -> Image.Image:
    vae = pipeline.vae
    covered = [patch_side(pipeline) * count for count in patches_over(pipeline, scene)]
    unpacked = pipeline._unpack_latents(latents[None], *covered, pipeline.vae_scale_factor)
    scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
    pixels = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    if not torch.isfinite(pixels).all():
        raise BlankImage("the decoded picture is not numbers; another seed may help")
    top, left = (covered[0] - scene.height) // 2, (covered[1] - scene.width) // 2
    inside = pixels[..., top : top + scene.height, left : left + scene.width]
    image: Image.Image = pipeline.image_processor.postprocess(inside, output_type="pil")[0]
    extrema: Any = image.getextrema()  # a pair for each of the three bands
    if all(most - least <= FLAT for least, most in extrema):
        raise BlankImage("the picture is one flat colour; another seed or prompt may help")
    return image
