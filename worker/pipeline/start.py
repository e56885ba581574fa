"""Begin to load: plan for the device, and let the weights land there while libraries are imported.

Needs torch alone: diffusers and transformers take seconds to import, in which a fast link brings
gigabytes.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import CardUnused
from shared.scenes import MOST_REFERENCES, USUAL_PIXELS
from shared.settings import Residency
from worker.pipeline.card import landing, plan_for
from worker.pipeline.driver import has_card
from worker.pipeline.memory import telling_of_memory
from worker.pipeline.model_bytes import models_in
from worker.pipeline.peaks import PROMPTS_TOGETHER
from worker.pipeline.plan import LargestJob, Plan
from worker.pipeline.reference import MAX_AREA
from worker.pipeline.weights.arrival import Arrival
from worker.pipeline.weights.fetching import Fetching

log = logging.getLogger(__name__)

# bfloat16 is what the model was trained in; on a CPU it is slower than float32 and less exact
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A load under way: what comes, where it lands, and how it will be drawn with."""

    arrival: Arrival
    device: torch.device
    dtype: torch.dtype
    plan: Plan
    together: int


def begin(
    weights: Path | Fetching,
    *,
    residency: Residency = Residency.AUTO,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    together: int = 1,
    max_pixels: int = USUAL_PIXELS,
    paid_card: bool = False,
) -> Start:
    """Wait for the headers, plan, and begin to take what comes, from a fetch or a new one.

    `together` and `max_pixels` are the most that will be asked for. Raises WeightsMissing,
    WeightsDamaged, WrongWeights, WeightsUnreachable, CardTooSmall or OutOfMemory; CardUnused if
    there is a `paid_card` that torch cannot use, which elsewhere is only logged.
    """
    where = torch.device(device or _best_device(paid_card=paid_card))
    dtype = dtype or DTYPES[where.type]
    with ExitStack() as unless_begun:
        fetching = weights if isinstance(weights, Fetching) else Fetching(str(weights))
        unless_begun.enter_context(fetching)
        largest = LargestJob(
            pixels=max_pixels,
            references=(MAX_AREA,) * MOST_REFERENCES,
            prompts=PROMPTS_TOGETHER,
            images=together,
        )
        models = models_in(fetching.opened(), element_bytes=dtype.itemsize)
        plan = plan_for(where, residency, models=models, largest=largest)
        with telling_of_memory():
            arrival = Arrival(fetching, landing(plan.residency, where))
        unless_begun.pop_all()
    return Start(arrival=arrival, device=where, dtype=dtype, plan=plan, together=together)


def _best_device(*, paid_card: bool) -> str:
    if torch.cuda.is_available():
        return "cuda"
    if has_card():
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
        reason = (
            f"there is a GPU, but torch {torch.__version__}, built for {built_for}, cannot use it; "
            "install a torch whose CUDA the driver knows (docs/images.md), or set "
            "CUDA_VISIBLE_DEVICES= to draw on the CPU"
        )
        if paid_card:
            raise CardUnused(reason)
        log.warning("card unused", extra={"reason": reason})
    return "cpu"
