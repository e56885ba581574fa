"""Where the models lie between their turns: on the device, or in main memory."""

from collections.abc import Callable
from enum import StrEnum

import torch
from diffusers import FluxKontextPipeline

# Activations at 1024 x 1024 with a reference of one megapixel (0.9 GiB of denoising, 1.5 of
# decoding), the device's context, and what the allocator keeps.
HEADROOM_BYTES = 4 * 2**30


class Residency(StrEnum):
    """Keep all models on the device, bring each for its turn, or choose by the memory there is."""

    AUTO = "auto"
    RESIDENT = "resident"
    OFFLOAD = "offload"


def choose_residency(wish: Residency, device: torch.device, *, weights_bytes: int) -> Residency:
    """Resolve `auto`: resident on a CPU or where all weights fit, else offload."""
    if wish is not Residency.AUTO:
        return wish
    if device.type != "cuda":
        return Residency.RESIDENT
    free, _ = torch.cuda.mem_get_info(device)
    fits = weights_bytes + HEADROOM_BYTES <= free
    return Residency.RESIDENT if fits else Residency.OFFLOAD


def settle(
    pipeline: FluxKontextPipeline, residency: Residency, device: torch.device
) -> Callable[[], None]:
    """Put a pipeline's models where they are to lie; return what to call after each drawing."""
    if residency is Residency.RESIDENT:
        pipeline.to(device)
        return lambda: None
    # the device is said outright: on a machine without an accelerator diffusers would refuse
    pipeline.enable_model_cpu_offload(device=device)
    # the pipeline evicts only at the end of its own call, which a stopped drawing never reaches
    evict: Callable[[], None] = pipeline.maybe_free_model_hooks
    return evict
