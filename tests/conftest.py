"""What any test may ask for: emulators, started once for a whole run if a test wants them."""

import os
from collections.abc import Iterator

import pytest

from deploy.emulators import Hosts, missing
from tests.emulators import given_hosts, shared_emulators


@pytest.fixture(scope="session")
def emulator_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The caller's emulators, else the run's; without any a laptop skips, and CI fails."""
    if given := given_hosts(os.environ):
        yield given
        return
    if faults := missing():
        reason = "the emulators are missing:\n" + "\n".join(faults)
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with shared_emulators(run / "emulators") as hosts:
        yield hosts


@pytest.fixture
def emulators(emulator_hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Emulators that this test and its programs stand on, by the environment."""
    for name, value in emulator_hosts.environment().items():
        monkeypatch.setenv(name, value)
    return emulator_hosts
