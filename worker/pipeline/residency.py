"""Where the models lie between their turns: put them there, and take them back from elsewhere."""

from collections.abc import Callable

import torch
from diffusers import FluxKontextPipeline
from diffusers.hooks import apply_group_offloading
from torch import nn

from shared.settings import Residency as Residency
from worker.pipeline.peaks import TILE_SIDE


def settle(
    pipeline: FluxKontextPipeline, residency: Residency, device: torch.device
) -> Callable[[], None]:
    """Put a pipeline's models where they are to lie; return what to call after each drawing.

    They may have been settled otherwise before.
    """
    _unsettle(pipeline, device)
    if residency is Residency.RESIDENT:
        pipeline.to(device)
        return _nothing
    if residency is Residency.STREAM_T5:
        _stream_t5(pipeline, device)
        return _nothing
    # the device is said outright: on a machine without an accelerator diffusers would refuse
    pipeline.enable_model_cpu_offload(device=device)
    # the pipeline evicts only at the end of its own call, which a stopped drawing never reaches
    evict: Callable[[], None] = pipeline.maybe_free_model_hooks
    return evict


def set_tiles(pipeline: FluxKontextPipeline, *, tiled: bool) -> None:
    """Let the VAE work in tiles, or on whole pictures; no picture of one tile is changed by it."""
    vae = pipeline.vae
    # by default a tile is what the VAE was trained on, 1024 pixels, and nothing would be saved
    vae.tile_sample_min_size = TILE_SIDE
    vae.tile_latent_min_size = TILE_SIDE // pipeline.vae_scale_factor
    vae.use_tiling = tiled


def _stream_t5(pipeline: FluxKontextPipeline, device: torch.device) -> None:
    cuda = device.type == "cuda"
    # a CPU with a number is another device than the one without, so that layers are copied there
    # and thrown away as they would be on a card
    onload = device if cuda else torch.device(device.type, device.index or 0)
    for name, model in pipeline.components.items():
        if isinstance(model, nn.Module) and name != "text_encoder_2":
            model.to(device)
    encoder = pipeline.text_encoder_2.to("cpu")
    apply_group_offloading(
        encoder,
        onload_device=onload,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=cuda,
    )


def _unsettle(pipeline: FluxKontextPipeline, device: torch.device) -> None:
    """Take off what `settle` put on; the models stay where they are."""
    pipeline.remove_all_hooks()
    if device.type == "cuda":
        # after a stopped drawing a layer may still be on its way, and would be copied back as noise
        torch.cuda.synchronize(device)
    for module in pipeline.text_encoder_2.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None:
            for name in reversed(tuple(registry.hooks)):
                registry.remove_hook(name, recurse=False)
            del module._diffusers_hook


def _nothing() -> None:
    """Resident models stay, and a streamed one has gone with its last layer."""
