"""Which tokens draw a picture: patches of 2 x 2 latents, those at its edges perhaps in part."""

from typing import Any

from shared.scenes import Scene


def patch_side(pipeline: Any) -> int:
    """Tell how many pixels one token draws, across and down: 16 with FLUX's VAE."""
    side: int = 2 * pipeline.vae_scale_factor
    return side


def patches_over(pipeline: Any, scene: Scene) -> tuple[int, int]:
    """Tell how many rows and columns of tokens cover a scene."""
    side = patch_side(pipeline)
    return -(-scene.height // side), -(-scene.width // side)
