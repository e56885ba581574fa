"""How much noise is taught with: any sometimes, mostly as much as decides who is drawn."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from worker.pipeline.artist.flow_training import _sigmas
from worker.pipeline.artist.learning import stratified
from worker.pipeline.tiny_shapes import SCHEDULER_CONFIG

pytestmark = pytest.mark.slow  # what it imports takes seconds
TOKENS = 16


def noises(batch: int) -> torch.Tensor:
    seeds = range(400)
    return torch.cat([_sigmas(batch, TOKENS, torch.Generator().manual_seed(n)) for n in seeds])


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
def test_every_example_gets_some_between_none_and_all(batch: int) -> None:
    found = noises(batch)
    assert found.shape == (400 * batch,)
    assert bool(((found > 0) & (found < 1)).all())


def test_most_lie_where_the_reference_counts_and_few_where_it_does_not() -> None:
    found = noises(32)
    assert ((found > 0.6) & (found < 0.95)).float().mean() > 0.45
    assert (found < 0.3).float().mean() < 0.15
    assert (found < 0.3).any()


def test_half_of_them_are_as_the_schedule_has_them() -> None:
    generator = torch.Generator().manual_seed(3)
    stratified(16, generator)  # the others' are drawn first
    times = stratified(16, generator).flip(0)  # a scheduler goes down
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER_CONFIG)
    # from 0.5 at 256 tokens to 1.15 at 4,096, on a line
    shift = 0.5 + (1.15 - 0.5) * (TOKENS - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=times.tolist(), mu=shift)
    found = _sigmas(32, TOKENS, torch.Generator().manual_seed(3))[:16]
    torch.testing.assert_close(found.flip(0), scheduler.sigmas[:-1])
    assert (scheduler.sigmas[:-1] - times).abs().max() > 0.05  # it does shift
