"""The judge, fitted once for all that is measured."""

import pytest
import torch

from worker.pipeline.artist.judge import Judge, fit_judge


@pytest.fixture(scope="session")
def judge() -> Judge:
    """A judge that was fitted on other drawings than those it is asked about."""
    torch.set_num_threads(2)
    return fit_judge(seed=0)
