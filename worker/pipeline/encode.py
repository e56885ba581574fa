"""Turn prompts and references into what the transformer reads, each of them once."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from shared.errors import IlloError
from shared.manifest import TEXT_TOKENS
from shared.scenes import Reference, Scene
from worker.drawing import Ahead, ReadReference
from worker.pipeline.patches import patch_side
from worker.pipeline.peaks import PROMPTS_TOGETHER
from worker.pipeline.reference import fit_reference
from worker.pipeline.remembered import Remembered

# A prompt's embeddings take 4 MB at full size, a reference's latents half a megabyte.
PROMPT_BYTES = 256 * 2**20
REFERENCE_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What the transformer reads of one scene besides the latents."""

    prompt: torch.Tensor  # (text tokens, width of T5)
    pooled: torch.Tensor  # (width of CLIP,)
    references: tuple[torch.Tensor, ...]  # each (channels, rows, columns), shifted and scaled
    unread_tokens: int = 0  # of the prompt, at its end: T5 reads no more than the weights say


class Encoder:
    """The two text encoders and the VAE's first half, with a memory of what they gave.

    `lock` is held while any of these models computes; any thread may call any method.
    """

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        *,
        text_tokens: int = TEXT_TOKENS,
        prompt_bytes: int = PROMPT_BYTES,
        reference_bytes: int = REFERENCE_BYTES,
    ) -> None:
        self._pipeline = pipeline
        self._text_tokens = text_tokens
        self.lock = threading.RLock()
        self.together = PROMPTS_TOGETHER
        self.prompts: Remembered[str] = Remembered(prompt_bytes)
        self.references: Remembered[str] = Remembered(reference_bytes)

    def encode(self, scene: Scene, read: ReadReference) -> Encoded:
        """Encode one scene; raises what `read` raises."""
        references = tuple(self._reference(each, read) for each in scene.references)
        with self.lock:  # another thread may be encoding this very prompt
            prompt, pooled = self._prompt(scene.prompt)
            unread = self._unread(scene.prompt)
        return Encoded(prompt=prompt, pooled=pooled, references=references, unread_tokens=unread)

    def remembers(self, scene: Scene) -> int:
        """Count what of a scene, its prompt and its references, need not be encoded again."""
        known = [each.sha256 in self.references for each in scene.references]
        return sum([scene.prompt in self.prompts, *known])

    def make_ready(self, ahead: Sequence[Ahead], *, wanted: Callable[[], bool]) -> None:
        """Encode what scenes to come will need; what cannot be read is left to its own drawing.

        `wanted` is asked before each reading of a picture and, under the lock, before each use of
        a model; its no ends the work.
        """
        with torch.no_grad():
            self.encode_prompts((each.scene.prompt for each in ahead), wanted=wanted)
            for each in ahead:
                for reference in each.scene.references:
                    if reference.sha256 in self.references:
                        continue
                    if not wanted():
                        return
                    with suppress(IlloError):
                        self._remember(reference, each.read(reference), wanted=wanted)

    def encode_prompts(
        self, prompts: Iterable[str], *, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Encode those prompts that are not remembered, several at once."""
        waiting = list(dict.fromkeys(prompts))
        while waiting:
            with self.lock:  # another thread may be encoding some of them
                new = [prompt for prompt in waiting if prompt not in self.prompts]
                if new and not wanted():
                    return
                if new:
                    self._encode_prompts(new[: self.together])
            waiting = new[self.together :]

    def forget(self, scene: Scene) -> None:
        """Encode this scene anew when it is next asked for."""
        self.prompts.forget(scene.prompt)
        for reference in scene.references:
            self.references.forget(reference.sha256)

    def _prompt(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.prompts.get(prompt) or self._encode_prompts([prompt])[0]
        return self._placed(found[0]), self._placed(found[1])

    def _unread(self, prompt: str) -> int:
        tokens = self._pipeline.tokenizer_2(prompt, truncation=False).input_ids
        return max(0, len(tokens) - self._text_tokens)

    def _encode_prompts(self, prompts: Sequence[str]) -> list[tuple[torch.Tensor, ...]]:
        with self.lock:
            embedded, pooled, _ = self._pipeline.encode_prompt(
                prompt=list(prompts), prompt_2=None, max_sequence_length=self._text_tokens
            )
            encoded = list(zip(embedded, pooled, strict=True))
            for prompt, tensors in zip(prompts, encoded, strict=True):
                self.prompts.put(prompt, tensors)
        return encoded

    def _reference(self, reference: Reference, read: ReadReference) -> torch.Tensor:
        while (found := self.references.get(reference.sha256)) is None:
            # not under the lock: it may come from far away
            latents = self._remember(reference, read(reference))
            if latents is not None:
                return self._placed(latents)
        return self._placed(found[0])

    def _remember(
        self,
        reference: Reference,
        picture: Image.Image,
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> torch.Tensor | None:
        """Encode a picture, unless another thread did so while it was read."""
        with self.lock:
            if reference.sha256 in self.references or not wanted():
                return None
            latents = self._encode_picture(picture)
            self.references.put(reference.sha256, (latents,))
        return latents

    def _encode_picture(self, picture: Image.Image) -> torch.Tensor:
        pipeline = self._pipeline
        pixels = pipeline.image_processor.preprocess(
            fit_reference(picture, multiple=patch_side(pipeline))
        )
        latents: torch.Tensor = pipeline._encode_vae_image(
            image=pixels.to(device=pipeline._execution_device, dtype=pipeline.vae.dtype),
            generator=None,  # the mode of the distribution is taken, so nothing is drawn
        )
        return latents[0]

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._pipeline._execution_device)
