"""The silent faults a pipeline may have, planted one at a time: it draws on, and draws wrongly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from shared.scenes import Scene
from worker.drawing import ReadReference
from worker.pipeline.encode import Encoded, Encoder
from worker.pipeline.kontext import Kontext

FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159  # of the full size's VAE
Planted = Callable[[Kontext], Any]


class _Changed(Encoder):
    """An encoder that changes what it gives, or what it is asked for."""

    def __init__(
        self,
        kontext: Kontext,
        *,
        asked: Callable[[Scene], Scene] = lambda scene: scene,
        given: Callable[[Encoded], Encoded] = lambda encoded: encoded,
    ) -> None:
        super().__init__(kontext._pipeline, text_tokens=kontext.plan.widths.text_tokens)
        self._asked, self._given = asked, given

    def encode(self, scene: Scene, read: ReadReference) -> Encoded:
        """See Encoder.encode."""
        return self._given(super().encode(self._asked(scene), read))


@contextmanager
def wrong_activation(kontext: Kontext) -> Iterator[None]:
    """Let T5's gates be ReLU, as loaders do that are given no config."""
    blocks = kontext._pipeline.text_encoder_2.encoder.block
    gates = [block.layer[1].DenseReluDense for block in blocks]
    right = [gate.act for gate in gates]
    for gate in gates:
        gate.act = torch.nn.ReLU()
    try:
        with _encoding_with(kontext, _Changed(kontext)):
            yield
    finally:
        for gate, act in zip(gates, right, strict=True):
            gate.act = act


@contextmanager
def lost_reference(kontext: Kontext) -> Iterator[None]:
    """Draw as if there were no reference."""
    changed = _Changed(kontext, given=lambda encoded: replace(encoded, references=()))
    with _encoding_with(kontext, changed):
        yield


@contextmanager
def lost_prompt(kontext: Kontext) -> Iterator[None]:
    """Draw as if nothing had been said."""
    changed = _Changed(kontext, asked=lambda scene: replace(scene, prompt=""))
    with _encoding_with(kontext, changed):
        yield


@contextmanager
def long_text(kontext: Kontext) -> Iterator[None]:
    """Read as many text tokens as the full size does."""
    with _encoding_with(kontext, Encoder(kontext._pipeline)):
        yield


@contextmanager
def unshifted_sigmas(kontext: Kontext) -> Iterator[None]:
    """Let the schedule be what it is before it is shifted by the number of tokens."""
    scheduler = kontext._pipeline.scheduler
    with _configured(scheduler, base_shift=0.0, max_shift=0.0):
        yield


@contextmanager
def wrong_scale(kontext: Kontext) -> Iterator[None]:
    """Scale and shift latents as the full size does."""
    vae = kontext._pipeline.vae
    with (
        _configured(vae, scaling_factor=FLUX_SCALE, shift_factor=FLUX_SHIFT),
        _encoding_with(kontext, _Changed(kontext)),
    ):
        yield


@contextmanager
def too_shallow(kontext: Kontext) -> Iterator[None]:
    """Leave the last block out, as a config does that says fewer than there are."""
    transformer = kontext._pipeline.transformer
    blocks = transformer.single_transformer_blocks
    transformer.single_transformer_blocks = blocks[:-1]
    try:
        yield
    finally:
        transformer.single_transformer_blocks = blocks


@contextmanager
def _encoding_with(kontext: Kontext, encoder: Encoder) -> Iterator[None]:
    before, kontext._encoder = kontext._encoder, encoder
    try:
        yield
    finally:
        kontext._encoder = before


@contextmanager
def _configured(part: Any, **changes: float) -> Iterator[None]:
    right = {name: part.config[name] for name in changes}
    part.register_to_config(**changes)
    try:
        yield
    finally:
        part.register_to_config(**right)


FAULTS: dict[str, Planted] = {
    "wrong T5 activation": wrong_activation,
    "reference ignored": lost_reference,
    "prompt lost": lost_prompt,
    "512 text tokens": long_text,
    "unshifted sigmas": unshifted_sigmas,
    "wrong latent scale": wrong_scale,
    "a config too shallow": too_shallow,
}
