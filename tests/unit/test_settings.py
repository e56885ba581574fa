"""Settings: every mistake at once, unknown names refused, and the documents that list them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import BadSettings
from shared.program import begin
from shared.requirements import require_api, require_worker
from shared.settings import (
    GOOGLES_CERTIFICATES,
    Settings,
    child_environment,
    environment_of,
    variable,
)

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
        ("ILLO_CHECKPOINT_SECONDS", ["0", "0.5", "3600"], ["-1", "3601", "never"]),
        ("ILLO_CHECKPOINT_STEPS", ["0", "1", "1000"], ["-1", "1.5", "1001"]),
        ("ILLO_RETENTION_DAYS", ["2"], ["1.9"]),
        ("ILLO_QUOTA_QUEUED_JOBS", ["1"], ["0"]),
        ("ILLO_QUOTA_JOBS_PER_DAY", ["1"], ["0"]),
        ("ILLO_QUOTA_GPU_SECONDS_PER_DAY", ["0.5"], ["0"]),
        ("ILLO_BACKEND", ["embedded", "gcp"], ["aws", "GCP"]),
        ("ILLO_LOG_LEVEL", ["debug", "error"], ["loud", ""]),
        ("ILLO_RESIDENCY", ["auto", "resident", "stream-t5", "offload"], ["cloud", "stream"]),
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


ON_GOOGLE = {
    "ILLO_BACKEND": "gcp",
    "GOOGLE_CLOUD_PROJECT": "stories",
    "ILLO_BUCKET": "stories-images",
    "ILLO_TOPIC": "wakes",
}
OF_THE_API = {
    "ILLO_KEYS": "/secrets/keys.json",
    "ILLO_SWEEP_AUDIENCE": "https://api.example/internal/sweep",
    "ILLO_SWEEP_EMAIL": "scheduler@stories.iam.gserviceaccount.com",
}
OF_A_WORKER = {
    "ILLO_PUSH_AUDIENCE": "https://worker.example/push",
    "ILLO_PUSH_EMAIL": "push@stories.iam.gserviceaccount.com",
}
EMULATORS = {
    "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:2",
    "STORAGE_EMULATOR_HOST": "http://127.0.0.1:3",
}


@pytest.mark.parametrize(
    ("require", "needed"), [(require_api, OF_THE_API), (require_worker, OF_A_WORKER)]
)
def test_a_half_configured_google_deployment_is_told_everything_it_lacks(
    require: Callable[[Settings], None], needed: dict[str, str]
) -> None:
    whole = {**ON_GOOGLE, **needed}
    require(Settings.read(whole))
    lacking = set(whole) - {"ILLO_BACKEND"}
    with pytest.raises(BadSettings) as refusal:
        require(Settings.read({"ILLO_BACKEND": "gcp"}))
    named = {line.partition(":")[0] for line in str(refusal.value).splitlines()}
    assert named == lacking
    for name in lacking:
        with pytest.raises(BadSettings, match=f"^{name}: missing") as refusal:
            require(Settings.read({k: v for k, v in whole.items() if k != name}))
        assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("require", [require_api, require_worker])
def test_the_laptop_needs_nothing_of_google(require: Callable[[Settings], None]) -> None:
    require(Settings.read({}))


@pytest.mark.parametrize("left_out", EMULATORS)
def test_emulators_come_all_or_none(left_out: str) -> None:
    whole = {**ON_GOOGLE, **OF_A_WORKER}
    require_worker(Settings.read({**whole, **EMULATORS}))
    some = {name: host for name, host in EMULATORS.items() if name != left_out}
    with pytest.raises(BadSettings, match=f"^{left_out}: missing"):
        require_worker(Settings.read({**whole, **some}))


def test_other_certificates_than_googles_are_trusted_only_with_emulators() -> None:
    whole = {**ON_GOOGLE, **OF_A_WORKER}
    others = {"ILLO_CERTIFICATES": "http://127.0.0.1:4/certs"}
    assert Settings.read(whole).certificates == GOOGLES_CERTIFICATES
    require_worker(Settings.read({**whole, **EMULATORS, **others}))
    with pytest.raises(BadSettings, match=r"^ILLO_CERTIFICATES: only Google's"):
        require_worker(Settings.read({**whole, **others}))
    elsewhere = {"ILLO_CERTIFICATES": "https://certs.example/keys"}
    with pytest.raises(BadSettings, match=r"^ILLO_CERTIFICATES: .*this machine"):
        require_worker(Settings.read({**whole, **EMULATORS, **elsewhere}))


def test_what_is_missing_is_told_beside_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"ILLO_BACKEND": "gcp", "ILLO_TOPIC": "t", "ILLO_WORKERS": "0"}
    monkeypatch.setattr("shared.program.process_environment", lambda: given)
    with pytest.raises(SystemExit) as ended:
        begin(require_worker)
    assert ended.value.code == 2
    told = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    missing = {"GOOGLE_CLOUD_PROJECT", "ILLO_BUCKET", "ILLO_PUSH_AUDIENCE", "ILLO_PUSH_EMAIL"}
    assert set(told) == {"ILLO_TOPIC", "ILLO_WORKERS", *missing}
    assert len(told) == len(set(told))


def test_only_with_keys_may_others_reach_the_api() -> None:
    require_api(Settings.read({"ILLO_HOST": "0.0.0.0", "ILLO_KEYS": "keys.json"}))
    with pytest.raises(BadSettings, match="ILLO_KEYS"):
        require_api(Settings.read({"ILLO_HOST": "0.0.0.0"}))


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
