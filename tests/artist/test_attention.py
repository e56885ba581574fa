"""The attention that the artist is taught with is the one that it will draw with."""

import pytest
import torch
from diffusers import FluxKontextPipeline

from worker.pipeline.artist.attention import PreciseAttention
from worker.pipeline.artist.shapes import SIZES, TEXT_WIDTH, new_reader
from worker.pipeline.artist.vae_training import mean

pytestmark = pytest.mark.slow

WORDS, EDGE = 5, 4


@pytest.fixture
def transformer() -> torch.nn.Module:
    """One whose every part counts: what is taught begins with much of it at zero."""
    made: torch.nn.Module = new_reader(0).transformer
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made


def drawn(transformer: torch.nn.Module) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Give what it guesses, and the gradients of all parameters."""
    generator = torch.Generator().manual_seed(1)
    ids = FluxKontextPipeline._prepare_latent_image_ids(1, EDGE, EDGE, "cpu", torch.float32)
    pictures = torch.randn(2, EDGE * EDGE, SIZES.in_channels, generator=generator)
    guessed = transformer(
        hidden_states=pictures,
        timestep=torch.tensor([0.2, 0.9]),
        guidance=torch.ones(2),
        pooled_projections=torch.randn(2, TEXT_WIDTH, generator=generator),
        encoder_hidden_states=torch.randn(2, WORDS, TEXT_WIDTH, generator=generator),
        txt_ids=torch.zeros(WORDS, 3),
        img_ids=ids,
        return_dict=False,
    )[0]
    weights = torch.randn(guessed.shape, generator=generator)
    parameters = list(transformer.parameters())
    return guessed, list(torch.autograd.grad((guessed * weights).sum(), parameters))


def test_it_guesses_and_learns_what_the_pipelines_own_attention_would(
    transformer: torch.nn.Module,
) -> None:
    guessed, gradients = drawn(transformer)
    transformer.set_attn_processor(PreciseAttention())  # type: ignore[operator]
    again, others = drawn(transformer)
    assert guessed.std() > 0.01
    torch.testing.assert_close(again, guessed, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    moved = [each.abs().max().item() > 1e-3 for each in gradients]
    assert mean(moved) > 0.95  # a gradient of nothing would agree with anything
