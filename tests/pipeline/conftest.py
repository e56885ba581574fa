"""The tiny weights and the loaded pipeline, made once for all tests."""

from pathlib import Path

import pytest

from shared.manifest import read_manifest
from shared.scenes import Weights
from worker.pipeline.kontext import Kontext
from worker.pipeline.residency import Residency
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
def kontext(tiny: Path) -> Kontext:
    """The pipeline with all models resident."""
    return Kontext(tiny, residency=Residency.RESIDENT, device="cpu", threads=THREADS)
