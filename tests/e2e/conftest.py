"""A running illo for tests that use it as a person would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import Service, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run one illo for the tests of a module; it sweeps often, so that repairs do not take long."""
    data: Path = tmp_path_factory.mktemp("up") / "data"
    with running(data, sweep_seconds="0.5") as illo:
        yield illo
