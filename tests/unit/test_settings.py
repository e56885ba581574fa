"""Settings: every mistake at once, unknown names refused, and the documents that list them."""

import re
from pathlib import Path

import pytest

from shared.errors import BadSettings
from shared.settings import Settings, child_environment, environment_of, variable

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_defaults_are_settings() -> None:
    assert Settings.read({}).port == 8080


def test_foreign_variables_are_passed_over() -> None:
    assert Settings.read({"HOME": "/root", "PORT": "9", "ILLO_URL": "http://x"}).port == 9


def test_every_mistake_is_told_at_once_with_its_name() -> None:
    wrong = {
        "ILLO_HEARTBEAT_SECONDS": "60",
        "ILLO_WORKERS": "0",
        "ILLO_COLOUR": "red",
        "PORT": "http",
        "ILLO_BACKEND": "aws",
    }
    with pytest.raises(BadSettings) as refusal:
        Settings.read(wrong)
    assert all(name in str(refusal.value) for name in wrong)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("PORT", ["0", "65535"], ["-1", "65536"]),
        ("ILLO_THREADS", ["0", "256"], ["-1", "257"]),
        ("ILLO_HTTP_THREADS", ["2", "256"], ["1", "257"]),
        ("ILLO_WORKERS", ["1", "64"], ["0", "65"]),
        ("ILLO_MAX_PIXELS", ["4096", "4194304"], ["4095", "4194305"]),
        ("ILLO_ACK_DEADLINE_SECONDS", ["0.1", "600"], ["0", "600.1"]),
        ("ILLO_RETENTION_DAYS", ["2"], ["1.9"]),
        ("ILLO_LOG_LEVEL", ["debug", "error"], ["loud", ""]),
        ("ILLO_RESIDENCY", ["auto", "resident", "offload"], ["cloud"]),
    ],
)
def test_both_sides_of_every_limit(name: str, right: list[str], wrong: list[str]) -> None:
    for value in right:
        Settings.read({name: value})
    for value in wrong:
        with pytest.raises(BadSettings, match=name):
            Settings.read({name: value})


def test_a_heartbeat_must_fit_into_a_lease_twice() -> None:
    Settings.read({"ILLO_LEASE_SECONDS": "10", "ILLO_HEARTBEAT_SECONDS": "5"})
    for wrong in (
        {"ILLO_LEASE_SECONDS": "10", "ILLO_HEARTBEAT_SECONDS": "5.1"},
        {"ILLO_LEASE_SECONDS": "10"},
    ):
        with pytest.raises(BadSettings, match="ILLO_HEARTBEAT_SECONDS"):
            Settings.read(wrong)


def test_a_child_process_gets_the_same_settings() -> None:
    settings = Settings.read({"ILLO_DATA": "/x", "PORT": "0", "ILLO_PRICE_PER_GPU_SECOND": "0.001"})
    assert Settings.read(environment_of(settings)) == settings
    assert Settings.read(child_environment(settings)) == settings
    assert child_environment(settings)["HF_HUB_OFFLINE"] == "1"


def test_the_document_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? \| (.+) \|$", DOCUMENT.read_text(), re.M)
    told = {name: (default, text) for name, default, text in rows}
    real = {
        variable(name): (
            str(
                getattr(field.default, "value", field.default) if field.default is not None else "–"
            ),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    }
    assert told == real
