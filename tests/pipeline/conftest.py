"""The tiny weights and the loaded pipeline, made once for all tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.manifest import read_manifest
from shared.scenes import Weights
from shared.settings import SMALL_ARTIST
from worker.pipeline.kontext import Kontext
from worker.pipeline.residency import Residency
from worker.pipeline.start import begin
from worker.pipeline.tiny import make_tiny_weights

# one: on a busy machine two threads wait for each other, and drawing takes ten times as long
THREADS = 1


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tiny weights; nobody may write into it."""
    directory = tmp_path_factory.mktemp("weights") / "tiny"
    make_tiny_weights(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_name(tiny: Path) -> Weights:
    manifest = read_manifest(tiny)
    return Weights(label=manifest.label, sha256=manifest.sha256)


@pytest.fixture(scope="session")
def load(tiny: Path) -> Callable[..., Kontext]:
    """Load a pipeline of one's own, to step it down or to spoil it."""

    def load(**options: Any) -> Kontext:
        wishes = {"residency": Residency.RESIDENT, "device": "cpu", **options}
        return Kontext(begin(tiny, **wishes), threads=THREADS)

    return load


@pytest.fixture(scope="session")
def kontext(load: Callable[..., Kontext]) -> Kontext:
    """The pipeline with all models resident."""
    return load()


@pytest.fixture(scope="session")
def artist() -> Kontext:
    """The pipeline with the weights that illo brings, whose tokens draw 32 x 32 pixels."""
    return Kontext(begin(SMALL_ARTIST, device="cpu"), threads=THREADS)


@pytest.fixture(scope="session")
def half(load: Callable[..., Kontext]) -> Kontext:
    """The same, computing in bfloat16 as a worker with a GPU does."""
    return load(dtype=torch.bfloat16)


@pytest.fixture(params=["kontext", "half"], ids=["float32", "bfloat16"])
def either(request: pytest.FixtureRequest) -> Kontext:
    """The pipeline in float32, and in bfloat16."""
    found: Kontext = request.getfixturevalue(request.param)
    return found
