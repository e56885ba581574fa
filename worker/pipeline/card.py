"""Measure the device's memory, and plan by it where the models are to lie."""

import logging

import torch

from shared.manifest import Role
from shared.settings import Residency
from worker.pipeline.plan import CONTEXT_BYTES, LargestJob, Memory, ModelBytes, Plan, plan

log = logging.getLogger(__name__)


def plan_for(
    device: torch.device, wish: Residency, *, models: ModelBytes, largest: LargestJob
) -> Plan:
    """Plan by the memory that there is now, before any weight is loaded, and log the sum.

    Raises CardTooSmall. See plan.
    """
    planned = plan(wish, memory=measure(device), weights=models, largest=largest)
    gib = {f"{phase}_gib": round(size / 2**30, 2) for phase, size in planned.peaks.items()}
    log.log(
        logging.INFO if planned.fits else logging.WARNING,
        "residency planned",
        extra={
            "residency": planned.residency.value,
            "wish": wish.value,
            "reason": planned.reason,
            "tiled": planned.tiled,
            "beside": planned.beside,
            "images": planned.images,
            **gib,
        },
    )
    return planned


def landing(residency: Residency, device: torch.device) -> dict[Role, torch.device]:
    """Say where the models' bytes should come to at first: on the device, if they stay there."""
    if residency is Residency.OFFLOAD:
        return {}
    streamed = {Role.TEXT_ENCODER_2} if residency is Residency.STREAM_T5 else set()
    return {role: device for role in Role if role not in streamed}


def measure(device: torch.device) -> Memory:
    """Tell what this process may take of the device, what it has taken already included."""
    if device.type != "cuda":
        return Memory(bytes=None)
    # not every one of these takes a device without a number
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    # the context of this process is there by now, and its size is not told by anybody
    own = torch.cuda.memory_reserved(index) + CONTEXT_BYTES
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(index)) + CONTEXT_BYTES
    return Memory(bytes=min(free + own, total, allowed))
