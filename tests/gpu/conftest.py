"""Weights of the true widths on the card; without a card nothing here runs, and says so."""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.product import open_kontext
from benchmarks.gpu.run import make
from worker.pipeline.kontext import Kontext


@pytest.fixture(scope="session", autouse=True)
def card() -> str:
    """The device that these tests are about."""
    if not torch.cuda.is_available():
        pytest.skip("NOT CHECKED: no CUDA device here; run `pytest tests/gpu` on a card")
    return "cuda"


@pytest.fixture(autouse=True)
def room(card: str) -> Iterator[None]:
    """All of the card's memory, free again after each test."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def bench(card: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two blocks of each kind, as wide as Kontext's own."""
    made = PARTS["equality"].bench(tmp_path_factory.mktemp("sets"), device=card, small=False)
    make(made)
    return made


@pytest.fixture(scope="session")
def kontext(bench: Bench) -> Kontext:
    """All models on the card."""
    return open_kontext(bench)
