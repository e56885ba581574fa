"""How much noise is taught with: any sometimes, mostly as much as decides who is drawn."""

import pytest
import torch

from worker.pipeline.artist.flow_training import EVENLY, _shifted, _sigmas
from worker.pipeline.artist.learning import stratified

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
    few = round(EVENLY * 32)
    times = stratified(32 - few, generator)  # drawn first
    assert len(times) == 16
    expected = _shifted(stratified(few, generator), TOKENS)
    assert torch.equal(_sigmas(32, TOKENS, torch.Generator().manual_seed(3))[:few], expected)
