"""Put the real FluxKontextPipeline together from a weights directory, with no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    GGUFQuantizationConfig,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast
from transformers.utils import logging as transformers_logging

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role
from worker.pipeline.text_encoder import load_packed_encoder
from worker.pipeline.weights.files import check_files
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.t5_check import check_encoder, find_packed_encoder
from worker.pipeline.weights.transformer_check import check_transformer

Stage = Callable[[str, float], None]


def check_weights(directory: Path, manifest: Manifest, *, on_stage: Stage) -> None:
    """Refuse weights that are damaged or of another model, before torch reads a tensor.

    Reads every byte once. Raises WeightsMissing, WeightsDamaged or WrongWeights.
    """
    # headers first: the wrong model is told in a moment, not after gigabytes of digests
    check_files(directory, manifest)
    transformer = find_transformer(directory, manifest)
    config = directory / Role.TRANSFORMER / "config.json"
    check_transformer(read_header(transformer), config, manifest.expects)
    check_encoder(directory, manifest)
    check_files(
        directory,
        manifest,
        digests=True,
        on_fraction=lambda fraction: on_stage("checking weights", fraction / 2),
    )


def assemble(
    directory: Path, manifest: Manifest, *, dtype: torch.dtype, on_stage: Stage
) -> FluxKontextPipeline:
    """Load checked weights into a pipeline on the CPU; all parts compute in `dtype`.

    Raises WeightsDamaged if a loader cannot read what the manifest vouches for.
    """
    _quieten()
    try:
        return _assemble(directory, manifest, dtype, on_stage)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        # loaders say by any of these that a file is not what they expect
        reason = f"{type(error).__name__}: {error}"
        raise WeightsDamaged(f"{directory}: {reason}; prepare the weights again") from error


def find_transformer(directory: Path, manifest: Manifest) -> Path:
    """Name the transformer's GGUF file; raises WeightsMissing unless there is exactly one."""
    found = [file.path for file in manifest.of(Role.TRANSFORMER) if file.path.endswith(".gguf")]
    if len(found) != 1:
        raise WeightsMissing(
            f"{directory}: the manifest lists {len(found)} transformer .gguf files, expected one; "
            "docs/weights.md says what belongs into the folder"
        )
    return directory / found[0]


def _assemble(
    directory: Path, manifest: Manifest, dtype: torch.dtype, on_stage: Stage
) -> FluxKontextPipeline:
    def configured(part: Any, folder: Role) -> Any:
        return part.from_pretrained(str(directory), subfolder=folder.value, local_files_only=True)

    def model(part: Any, folder: Role, fraction: float) -> Any:
        on_stage(f"loading {folder}", fraction)
        return _load_model(part, str(directory), folder, dtype)

    def encoder(fraction: float) -> Any:
        packed = find_packed_encoder(directory, manifest)
        if packed is None:
            return model(T5EncoderModel, Role.TEXT_ENCODER_2, fraction)
        on_stage(f"loading {Role.TEXT_ENCODER_2}", fraction)
        return load_packed_encoder(directory, packed, dtype=dtype)

    parts = {
        "scheduler": configured(FlowMatchEulerDiscreteScheduler, Role.SCHEDULER),
        "tokenizer": configured(CLIPTokenizer, Role.TOKENIZER),
        "tokenizer_2": configured(T5TokenizerFast, Role.TOKENIZER_2),
        "text_encoder": model(CLIPTextModel, Role.TEXT_ENCODER, 0.5),
        "vae": model(AutoencoderKL, Role.VAE, 0.52),
        "text_encoder_2": encoder(0.54),
    }
    on_stage(f"loading {Role.TRANSFORMER}", 0.7)
    parts["transformer"] = FluxTransformer2DModel.from_single_file(
        str(find_transformer(directory, manifest)),
        # config is explicit: diffusers misreads a BF16 img_in as Depth-dev's 128 channels
        config=str(directory),
        subfolder=Role.TRANSFORMER.value,
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        torch_dtype=dtype,
        local_files_only=True,
    )
    pipeline = FluxKontextPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load_model(part: Any, directory: str, folder: Role, dtype: torch.dtype) -> Any:
    model, found = part.from_pretrained(
        directory,
        subfolder=folder.value,
        torch_dtype=dtype,
        local_files_only=True,
        use_safetensors=True,  # a pickled file would be code
        output_loading_info=True,
    )
    # what is missing would be filled with random numbers and a warning
    missing = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
    if missing:
        raise WrongWeights(
            f"{directory}/{folder}: {len(missing)} tensors are missing or of another shape, "
            f"{missing[0]} first; put {folder} of FLUX.1-Kontext-dev there"
        )
    return model


def _quieten() -> None:
    # both libraries quote the prompt when they cut it, and draw progress bars between log lines
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
