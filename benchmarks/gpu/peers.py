"""The same weights as diffusers and transformers load and draw with them, by their own ways."""

import time
from itertools import pairwise
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    GGUFQuantizationConfig,
)
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from benchmarks.gpu.bench import Bench, synchronize
from benchmarks.gpu.product import a_picture
from shared.scenes import Scene
from worker.pipeline.denoise import Row
from worker.pipeline.start import DTYPES


def dtype_of(bench: Bench) -> torch.dtype:
    """What the worker computes in on this device."""
    return DTYPES[torch.device(bench.device).type]


def load_transformer(bench: Bench) -> Any:
    """Load the GGUF file with `from_single_file`, onto the CPU."""
    return FluxTransformer2DModel.from_single_file(
        str(bench.weights / "transformer/model.gguf"),
        config=str(bench.weights),
        subfolder="transformer",
        quantization_config=GGUFQuantizationConfig(compute_dtype=dtype_of(bench)),
        torch_dtype=dtype_of(bench),
        local_files_only=True,
    )


def load_encoder(bench: Bench) -> Any:
    """Load T5 from its GGUF file with transformers, which unpacks all of it."""
    folder = bench.weights / "text_encoder_2"
    return T5EncoderModel.from_pretrained(
        str(folder),
        gguf_file="model.gguf",
        config=T5Config.from_pretrained(str(folder)),
        dtype=dtype_of(bench),
        local_files_only=True,
    )


def load_rest(bench: Bench) -> dict[str, Any]:
    """Load what is neither transformer nor T5."""

    def loaded(part: Any, folder: str, **more: Any) -> Any:
        return part.from_pretrained(str(bench.weights / folder), local_files_only=True, **more)

    return {
        "scheduler": loaded(FlowMatchEulerDiscreteScheduler, "scheduler"),
        "tokenizer": loaded(CLIPTokenizer, "tokenizer"),
        "tokenizer_2": loaded(T5TokenizerFast, "tokenizer_2"),
        "text_encoder": loaded(CLIPTextModel, "text_encoder", dtype=dtype_of(bench)),
        "vae": loaded(AutoencoderKL, "vae", torch_dtype=dtype_of(bench)),
    }


def put_together(**parts: Any) -> FluxKontextPipeline:
    """Make a pipeline that shows no progress."""
    pipeline = FluxKontextPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_once(pipeline: FluxKontextPipeline, scene: Scene) -> None:
    """Draw a scene with one reference as somebody would who calls the pipeline."""
    [reference] = scene.references
    pipeline(
        image=a_picture(reference),
        prompt=scene.prompt,
        generator=torch.Generator("cpu").manual_seed(scene.seed),
        **_asked(scene),
    )


def step_times(bench: Bench, transformer: Any, scene: Scene, row: Row) -> list[float]:
    """Let the stock pipeline denoise what is encoded already, and time each step but the first."""
    encoded = row.conditions.encoded
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(str(bench.weights / "scheduler"))
    pipeline = put_together(
        scheduler=scheduler,
        transformer=transformer,
        **dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    marks = []

    def mark(_pipeline: object, _step: int, _time: object, kept: dict[str, Any]) -> dict[str, Any]:
        synchronize(bench.device)
        marks.append(time.perf_counter())
        return kept

    latents = [each[None] for each in encoded.references]
    pipeline(
        image=latents[0] if latents else None,
        prompt_embeds=encoded.prompt[None],
        pooled_prompt_embeds=encoded.pooled[None],
        output_type="latent",
        callback_on_step_end=mark,
        **_asked(scene),
    )
    return [later - before for before, later in pairwise(marks)]


def _asked(scene: Scene) -> dict[str, Any]:
    return {
        "height": scene.height,
        "width": scene.width,
        "max_area": scene.height * scene.width,
        "_auto_resize": False,
        "num_inference_steps": scene.steps,
        "guidance_scale": scene.guidance,
    }
