"""Draw a scene with FLUX.1 Kontext: load, encode, denoise, decode."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from shared.errors import BlankImage, InvalidReference, OutOfMemory
from shared.manifest import read_manifest
from shared.scenes import Scene, Weights
from shared.vocabulary import Phase
from worker.pipeline.reference import fit_reference
from worker.pipeline.residency import Residency, choose_residency, settle
from worker.pipeline.weights.assemble import assemble, check_weights

TEXT_TOKENS = 512  # what T5 reads of a prompt; Kontext was trained with this length
FLAT = 2  # of 255: a picture whose channels span no more than this shows nothing
# bfloat16 is what the model was trained in; on a CPU it is slower than float32 and less exact
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}

OnProgress = Callable[[Phase, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    prompt: torch.Tensor  # (1, 512, width of T5)
    pooled: torch.Tensor  # (1, width of CLIP)
    reference: torch.Tensor | None  # (1, 16, height / 8, width / 8), shifted and scaled


class Kontext:
    """The loaded model; draws one scene at a time, and is not to be shared between threads."""

    weights: Weights
    device: str

    def __init__(
        self,
        weights: Path,
        *,
        residency: Residency = Residency.AUTO,
        device: str | None = None,
        threads: int | None = None,
        on_stage: Callable[[str, float], None] = lambda stage, fraction: None,
    ) -> None:
        """Check and load a weights directory; `on_stage` hears what is done and the fraction.

        Raises WeightsMissing, WeightsDamaged or WrongWeights.
        """
        on_stage("checking weights", 0.0)
        manifest = read_manifest(weights)
        check_weights(weights, manifest, on_stage=on_stage)
        self.weights = Weights(label=manifest.label, sha256=manifest.sha256)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # sums come out differently with another number of threads, so the number is fixed
        torch.set_num_threads(threads or torch.get_num_threads())
        where = torch.device(self.device)
        self._pipeline = assemble(
            weights, manifest, dtype=DTYPES.get(where.type, torch.float32), on_stage=on_stage
        )
        on_stage("settling models", 0.9)
        size = sum(file.bytes for file in manifest.files)
        with _memory():
            self.residency = choose_residency(residency, where, weights_bytes=size)
            self._after_drawing = settle(self._pipeline, self.residency, where)
        on_stage("ready", 1.0)

    def generate(
        self, scene: Scene, references: Sequence[Image.Image], *, on_progress: OnProgress
    ) -> list[Image.Image]:
        """Draw the scene's images, each exactly as its seed alone would draw it.

        `on_progress` hears the phase, the steps done and the steps in all, over all images; what
        it raises stops the drawing at once and comes through. Raises InvalidReference, BlankImage
        or OutOfMemory. Whatever was raised, the next drawing is as if nothing had happened.
        """
        if len(references) > 1:
            raise InvalidReference(
                f"{len(references)} references: one reference per scene for now; send the one "
                "that matters most, or join them into one picture"
            )
        steps = scene.steps * scene.count
        try:
            with torch.no_grad(), _memory():
                on_progress(Phase.ENCODING, 0, steps)
                encoded = self._encode(scene, references)
                images = []
                for index, seed in enumerate(scene.seeds):
                    done = index * scene.steps
                    on_progress(Phase.DENOISING, done, steps)
                    latents = self._denoise(scene, seed, encoded, done, on_progress)
                    on_progress(Phase.DECODING, done + scene.steps, steps)
                    images.append(self._decode(scene, latents))
                return images
        finally:
            # a stopped drawing leaves its models on the device, and a cache in the middle
            self._pipeline.transformer._reset_stateful_cache()
            self._after_drawing()

    def _encode(self, scene: Scene, references: Sequence[Image.Image]) -> _Encoded:
        prompt, pooled, _ = self._pipeline.encode_prompt(
            prompt=scene.prompt, prompt_2=None, max_sequence_length=TEXT_TOKENS
        )
        latents = None
        if references:
            fitted = fit_reference(references[0])
            pixels = self._pipeline.image_processor.preprocess(fitted)
            latents = self._pipeline._encode_vae_image(
                image=pixels.to(device=self._pipeline._execution_device, dtype=prompt.dtype),
                generator=None,  # the mode of the distribution is taken, so nothing is drawn
            )
        return _Encoded(prompt=prompt, pooled=pooled, reference=latents)

    def _denoise(
        self, scene: Scene, seed: int, encoded: _Encoded, done: int, on_progress: OnProgress
    ) -> torch.Tensor:
        def after_step(_: object, step: int, __: object, values: dict[str, Any]) -> dict[str, Any]:
            on_progress(Phase.DENOISING, done + step + 1, scene.steps * scene.count)
            return values

        # without max_area, width and height would only be an aspect ratio
        drawn = self._pipeline(
            prompt_embeds=encoded.prompt,
            pooled_prompt_embeds=encoded.pooled,
            image=encoded.reference,
            width=scene.width,
            height=scene.height,
            max_area=scene.width * scene.height,
            num_inference_steps=scene.steps,
            guidance_scale=scene.guidance,
            # on the CPU, so that a seed means the same on every device
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=after_step,
            output_type="latent",
        )
        latents: torch.Tensor = drawn.images
        if not torch.isfinite(latents).all():
            raise BlankImage("the latents are not numbers; another seed may help")
        return latents

    def _decode(self, scene: Scene, latents: torch.Tensor) -> Image.Image:
        pipeline, vae = self._pipeline, self._pipeline.vae
        unpacked = pipeline._unpack_latents(
            latents, scene.height, scene.width, pipeline.vae_scale_factor
        )
        scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(scaled, return_dict=False)[0]
        if not torch.isfinite(pixels).all():
            raise BlankImage("the decoded picture is not numbers; another seed may help")
        image: Image.Image = pipeline.image_processor.postprocess(pixels, output_type="pil")[0]
        extrema: Any = image.getextrema()  # a pair for each of the three bands
        if all(most - least <= FLAT for least, most in extrema):
            raise BlankImage("the picture is one flat colour; another seed or prompt may help")
        return image


@contextmanager
def _memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the device has no room for this drawing: {error}") from None
    except RuntimeError as error:
        # torch has no class of its own for a CPU that has no memory left
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"the machine has no room for this drawing: {error}") from None
