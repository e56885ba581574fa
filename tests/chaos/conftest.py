"""What the chaos tests ask for."""

import os

import pytest

from deploy.emulators import missing


@pytest.fixture(scope="session")
def emulators_installed() -> None:
    """Google's emulators are installed; without any a laptop skips, and CI fails."""
    if faults := missing():
        reason = "the emulators are missing:\n" + "\n".join(faults)
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
