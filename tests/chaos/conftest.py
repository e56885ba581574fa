"""What the chaos tests ask for."""

import os
from pathlib import Path

import pytest

from deploy.emulators import missing
from worker.pipeline.tiny import make_tiny_weights


@pytest.fixture(scope="session")
def emulators_installed() -> None:
    """Google's emulators are installed; without any a laptop skips, and CI fails."""
    if faults := missing():
        reason = "the emulators are missing:\n" + "\n".join(faults)
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights: what is drawn does not matter here, and nothing is drawn faster."""
    directory: Path = tmp_path_factory.mktemp("weights") / "random"
    make_tiny_weights(directory)
    return str(directory)
