"""What any test may ask for: emulators, started once for a whole run if a test wants them."""

import os
from collections.abc import Iterator

import pytest

from deploy.emulators import Hosts, missing
from tests.emulators import given_hosts, shared_emulators


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not ask for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow whatever stands on emulators."""
    for item in items:
        if needs_emulators(item):
            item.add_marker(pytest.mark.slow)


def needs_emulators(item: pytest.Item) -> bool:
    """Say whether a test starts the emulators, or the programs that stand on them."""
    fixtures = getattr(item, "fixturenames", ())
    place = getattr(getattr(item, "callspec", None), "params", {}).get("place")
    return place == "emulators" or bool({"emulators", "emulator_hosts"} & set(fixtures))


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
