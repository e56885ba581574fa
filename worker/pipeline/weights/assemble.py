"""Put the real FluxKontextPipeline together while its weights come, with no network of its own."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTokenizer, T5TokenizerFast
from transformers.utils import logging as transformers_logging

from shared.errors import WeightsDamaged
from shared.manifest import Role
from worker.pipeline.text_encoder import load_packed_encoder
from worker.pipeline.transformer import place_transformer
from worker.pipeline.weights.arrival import Arrival
from worker.pipeline.weights.configs import read_config
from worker.pipeline.weights.fetching import Fetching
from worker.pipeline.weights.gguf_header import GgufHeader
from worker.pipeline.weights.inspect import header_facts, origin_of
from worker.pipeline.weights.layout import ORDER, OpenedFile
from worker.pipeline.weights.opening import Opened
from worker.pipeline.weights.part_configs import scheduler_fields
from worker.pipeline.weights.plain_models import load_plain

log = logging.getLogger(__name__)

OnStage = Callable[[str, float], None]  # what is done, and the fraction of the start
OnTook = Callable[[str, float], None]  # a stage that has ended, and its seconds
FETCHED = 0.9  # of a start, as it is told; what is left is to put models where they belong


def load(
    arrival: Arrival,
    *,
    dtype: torch.dtype,
    on_stage: OnStage = lambda stage, fraction: None,
    on_took: OnTook = lambda stage, seconds: None,
) -> FluxKontextPipeline:
    """Build the pipeline that computes in `dtype`, each model as soon as its bytes are vouched for.

    Its tensors are views of what arrived wherever they need no conversion; the arrival has ended
    then, whatever happens. Raises WeightsMissing, WeightsDamaged, WrongWeights or
    WeightsUnreachable, and torch.OutOfMemoryError if a device is too small.
    """
    _quieten()
    with arrival:
        fetching = arrival.fetching
        opened = fetching.opened()
        _log_headers(opened)
        on_took("headers", opened.seconds)
        with _understood(opened):
            parts = _small_parts(opened)
        total = sum(file.bytes for file in opened.manifest.files) or 1
        fraction, building = 0.0, 0.0

        def on_bytes(count: int) -> None:
            nonlocal fraction
            fraction = FETCHED * min(1.0, count / total)
            on_stage("fetching weights", fraction)

        for role in ORDER:
            fetching.wait_for(role, on_bytes=on_bytes)
            on_stage(f"loading {role}", fraction)
            began = time.monotonic()
            with _understood(opened):
                model = _build(opened, role, arrival.arena(role), dtype)
                parts[role.value] = model.to(arrival.device_of(role))
            building += time.monotonic() - began
        _log_fetched(fetching)
        on_took("fetching", fetching.fetched().seconds)
        log.info("weights assembled", extra={"seconds": round(building, 3)})
        on_took("assembling", building)
    pipeline = FluxKontextPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _small_parts(opened: Opened) -> dict[str, Any]:
    def worded(part: Any, folder: Role) -> Any:
        return part.from_pretrained(
            str(opened.folder), subfolder=folder.value, local_files_only=True
        )

    schedule = opened.folder / Role.SCHEDULER / "scheduler_config.json"
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(**scheduler_fields(read_config(schedule))),
        "tokenizer": worded(CLIPTokenizer, Role.TOKENIZER),
        "tokenizer_2": worded(T5TokenizerFast, Role.TOKENIZER_2),
    }


def _build(opened: Opened, role: Role, arena: torch.Tensor, dtype: torch.dtype) -> Any:
    slots = opened.layout.tensors[role]
    raw = {name: arena[slot.at : slot.at + slot.bytes] for name, slot in slots.items()}
    headers = [file.header for file in opened.of(role)]
    first = headers[0]
    if isinstance(first, GgufHeader):
        build = place_transformer if role is Role.TRANSFORMER else load_packed_encoder
        return build(opened.folder, first, raw, dtype=dtype)
    stored = {
        name: tensor
        for header in headers
        if not isinstance(header, GgufHeader)
        for name, tensor in header.tensors.items()
    }
    return load_plain(opened.folder, role, stored, raw, dtype=dtype)


@contextmanager
def _understood(opened: Opened) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # loaders say by any of these that a file is not what they expect; most was judged before
        reason = f"{type(error).__name__}: {error}"
        raise WeightsDamaged(f"{opened.name}: {reason}; prepare the weights again") from error


def _log_headers(opened: Opened) -> None:
    log.info("weights opened", extra={"place": opened.name, "seconds": round(opened.seconds, 3)})
    for file in opened.files:
        log.info("weights file", extra=_facts(opened, file))


def _facts(opened: Opened, file: OpenedFile) -> dict[str, object]:
    config = opened.folder / file.role / "config.json"
    whose = {"label": opened.manifest.label, "sha256": file.sha256}
    if isinstance(file.header, GgufHeader):
        facts = header_facts(file.header, config=config)
        title = facts.pop("name", None)  # a log record has a name of its own
        return {**facts, "title": title, **whose}
    types = Counter(tensor.type for tensor in file.header.tensors.values())
    return {
        "file": str(file.header.path),
        "tensors": len(file.header.tensors),
        "quantizations": dict(types),
        "name_or_path": origin_of(config),
        **whose,
    }


def _log_fetched(fetching: Fetching) -> None:
    fetched = fetching.fetched()
    told = asdict(fetched) | {
        "seconds": round(fetched.seconds, 3),
        "bytes_per_second": round(fetched.bytes_per_second),
        "through_ring": fetching.through_ring,
    }
    del told["crc32c"]
    log.info("weights fetched", extra=told)


def _quieten() -> None:
    # both libraries quote the prompt when they cut it, and draw progress bars between log lines
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
