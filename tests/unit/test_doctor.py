"""`illo doctor`: what is wrong is told with its remedy, and decides how it ends."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy import checkup, checkup_backends
from deploy.checkup import GIB, judged
from deploy.cli import run
from deploy.emulators import Hosts
from deploy.findings import State
from tests import strict_storage as storage
from tests.ranged_server import BUCKET, OBJECT, ranged_server
from tests.strict_storage import StrictStorage
from worker.pipeline.device import Card, Device, first_card, look_at_device
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.weights import probe as probing
from worker.pipeline.weights.probe import Rate

MB = 10**6


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests, and a data folder of its own."""
    from shared.settings import PREFIX, WORLDS_OWN, process_environment

    for name in process_environment():
        if name.startswith(PREFIX) or name in WORLDS_OWN:
            monkeypatch.delenv(name)
    monkeypatch.setenv("ILLO_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("weights") / "tiny"
    make_tiny_weights(directory)
    return directory


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command with --json; give its exit code and what it found."""

    def tell(*arguments: str) -> tuple[int, dict[str, Any]]:
        ended = run(["doctor", *arguments, "--json"])
        return ended, json.loads(capsys.readouterr().out)

    return tell


def said(document: dict[str, Any], *states: State) -> list[str]:
    return [
        f"{each['what']}: {each['said']}"
        for each in document["findings"]
        if not states or each["state"] in states
    ]


# --- settings, weights and backends ---------------------------------------------------------------


def test_a_laptop_as_it_comes_is_well(told: Any, tmp_path: Path) -> None:
    ended, found = told()
    assert ended == 0
    assert said(found, State.WRONG) == []
    parts = {each["what"] for each in found["findings"]}
    assert parts == {"settings", "weights", "data", "device"}
    assert list(tmp_path.iterdir()) == []  # nothing was made to find out


def test_it_says_how_far_it_has_come_up_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("%  ")[2] for line in lines[:-1]] == [
        f"looking at {part}" for part in ("settings", "weights", "backends", "device")
    ]
    fractions = [int(line.partition("%")[0]) for line in lines]
    assert fractions == sorted(set(fractions))
    assert lines[-1] == "100%  looked at everything"


def test_every_wrong_setting_is_told_and_the_device_all_the_same(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ILLO_WORKERS", "0")
    monkeypatch.setenv("ILLO_COLOUR", "red")
    ended, found = told()
    assert ended == 1
    wrong = said(found, State.WRONG)
    assert len(wrong) == 2
    assert all(any(name in line for line in wrong) for name in ("ILLO_WORKERS", "ILLO_COLOUR"))
    assert any(line.startswith("device: ") for line in said(found, State.OK))


def test_no_value_of_a_setting_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ILLO_KEYS", '{"keys": "a-secret"}')
    assert run(["doctor"]) == 1  # it is no list of keys
    shown = capsys.readouterr()
    assert "ILLO_KEYS" in shown.out
    assert "a-secret" not in shown.out + shown.err


def test_weights_are_described_and_judged(
    told: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ILLO_WEIGHTS", str(weights))
    ended, found = told()
    assert ended == 0
    assert any("illo-tiny-2, 1,028,447 bytes" in line for line in said(found, State.OK))
    harmed = Path(shutil.copytree(weights, tmp_path / "harmed"))
    (harmed / "vae/config.json").unlink()
    monkeypatch.setenv("ILLO_WEIGHTS", str(harmed))
    ended, found = told()
    assert ended == 1
    (wrong,) = said(found, State.WRONG)
    assert "vae/config.json: not there" in wrong


@pytest.mark.parametrize("place", ["nowhere", "gs://illo-test/kontext"])
def test_weights_that_are_not_there_are_wrong(
    told: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with storage.strict_storage() as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("ILLO_WEIGHTS", place)
        ended, found = told()
    assert ended == 1
    (wrong,) = said(found, State.WRONG)
    assert "manifest.json: not there" in wrong


def without_checksums(server: StrictStorage) -> None:
    """Let the manifest be one of an older illo."""
    name = "kontext/manifest.json"
    content = json.loads(server.objects.held["illo-test", name].data)
    for file in content["files"]:
        del file["crc32c"]
    server.objects.write("illo-test", {"name": name}, json.dumps(content).encode(), {})


def test_weights_of_a_bucket_are_held_against_what_it_says(
    told: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = StrictStorage()
    for path in weights.rglob("*"):
        if path.is_file():
            name = f"kontext/{path.relative_to(weights).as_posix()}"
            server.objects.write("illo-test", {"name": name}, path.read_bytes(), {})
    with storage.strict_storage(server) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("ILLO_WEIGHTS", "gs://illo-test/kontext")
        ended, found = told()
        assert ended == 0
        assert not any("crc32c" in line for line in said(found, State.NOTE))
        without_checksums(server)
        ended, found = told()
        assert ended == 0
        assert any("has no crc32c" in line for line in said(found, State.NOTE))
        server.objects.held.pop(("illo-test", "kontext/vae/config.json"))
        ended, found = told()
    assert ended == 1
    (wrong,) = said(found, State.WRONG)
    assert "gs://illo-test/kontext/vae/config.json: not there" in wrong


def test_a_data_folder_that_takes_nothing_is_wrong(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ILLO_DATA", "/dev/null/data")
    ended, found = told()
    assert ended == 1
    (wrong,) = said(found, State.WRONG)
    assert wrong.startswith("data: ILLO_DATA: nothing can be written")


ON_GOOGLE = {
    "ILLO_BACKEND": "gcp",
    "GOOGLE_CLOUD_PROJECT": "illo-test",
    "ILLO_BUCKET": "illo-test",
    "ILLO_TOPIC": "wakes",
}
OF_A_WORKER = {
    "ILLO_PUSH_AUDIENCE": "https://worker.example/push",
    "ILLO_PUSH_EMAIL": "push@stories.iam.gserviceaccount.com",
}


def test_half_a_deployment_is_told_what_it_lacks_and_reaches_nobody(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup_backends, "_google_found", pytest.fail)
    monkeypatch.setenv("ILLO_BACKEND", "gcp")
    ended, found = told()
    assert ended == 1
    wrong = said(found, State.WRONG)
    assert any("the API and a worker could not run: ILLO_BUCKET: missing" in each for each in wrong)
    assert any("a worker could not run: ILLO_PUSH_EMAIL: missing" in each for each in wrong)
    assert "backends: not looked at: correct the settings first" in said(found, State.NOTE)


def test_a_worker_s_settings_need_not_be_an_api_s(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup_backends, "_google_found", lambda settings: iter(()))
    for name, value in (ON_GOOGLE | OF_A_WORKER).items():
        monkeypatch.setenv(name, value)
    ended, found = told()
    assert ended == 0
    notes = said(found, State.NOTE)
    assert any("the API could not run: ILLO_KEYS: missing" in each for each in notes)


def test_each_service_of_google_is_asked_and_told_apart(
    told: Any, emulators: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.google import make_bucket
    from shared.gcp.topics import make_subscription, subscription_path, topic_path

    for name, value in (ON_GOOGLE | OF_A_WORKER | emulators.environment()).items():
        monkeypatch.setenv(name, value)
    make_bucket(emulators.storage)
    monkeypatch.setenv("ILLO_BUCKET", "illo-local")
    make_subscription(
        emulators.pubsub,
        topic=topic_path("illo-test", "doctor"),
        subscription=subscription_path("illo-test", "doctor"),
    )
    monkeypatch.setenv("ILLO_TOPIC", "doctor")
    ended, found = told()
    assert said(found, State.WRONG) == []
    assert ended == 0
    parts = {each["what"] for each in found["findings"]}
    assert {"firestore", "storage", "pubsub"} <= parts
    monkeypatch.setenv("ILLO_TOPIC", "no-such-topic")
    monkeypatch.setenv("ILLO_BUCKET", "no-such-bucket")
    ended, found = told()
    assert ended == 1
    wrong = said(found, State.WRONG)
    assert [line.partition(":")[0] for line in wrong] == ["storage", "pubsub"]
    assert "there is no such topic" in wrong[1]


# --- the device -----------------------------------------------------------------------------------


def a_device(**changes: Any) -> Device:
    found: dict[str, Any] = {
        "kind": "cpu",
        "name": "EPYC",
        "memory": 24 * GIB,
        "free": 22 * GIB,
        "cores": 4,
        "torch": "2.13.0+cpu",
        "built_for": None,
        "card": None,
    }
    return Device(**(found | changes))


L4 = Card(name="NVIDIA L4", driver="535.288.01")


@pytest.mark.parametrize(
    ("device", "state", "words"),
    [
        (a_device(), State.OK, ["EPYC, 4 cores, 24.0 GiB, no GPU", "for the CPU alone"]),
        (
            a_device(kind="cuda", name="NVIDIA L4", built_for="12.2", card=L4),
            State.OK,
            ["NVIDIA L4, 22.0 of 24.0 GiB free, driver 535.288.01", "for CUDA 12.2"],
        ),
        (
            a_device(card=L4),
            State.WRONG,
            ["for the CPU alone cannot use the NVIDIA L4, driver 535", "install a build of torch"],
        ),
        (
            a_device(card=L4, built_for="13.0"),
            State.WRONG,
            ["for CUDA 13.0 cannot use", "or a newer driver"],
        ),
    ],
)
def test_a_device_is_judged_by_what_torch_can_use(
    device: Device, state: State, words: list[str]
) -> None:
    found = judged(device)
    assert found.state is state
    assert all(each in found.said for each in words)


def test_the_device_of_this_machine_has_a_name_and_memory() -> None:
    device = look_at_device()
    assert device.name
    assert device.memory > 0
    assert device.kind in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("answer", "card"),
    [
        ("echo 'NVIDIA L4, 535.288.01'; echo 'NVIDIA L4, 535.288.01'", L4),
        ("echo 'no devices were found'", None),
        ("exit 9", None),
    ],
)
def test_the_driver_is_asked_for_the_first_card(
    answer: str, card: Card | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{answer}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert first_card() == card


def test_without_torch_no_worker_is_promised(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.importlib.util, "find_spec", lambda name: None)
    ended, found = told()
    assert ended == 0
    assert any("torch is not installed" in line for line in said(found, State.NOTE))


# --- the probe ------------------------------------------------------------------------------------


@pytest.fixture
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing.probe, "__kwdefaults__", {
        **probing.probe.__kwdefaults__, "seconds": 0.6,
    })  # fmt: skip


@pytest.fixture(scope="module")
def octets() -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.zeros(200 * MB, np.uint8)


@pytest.mark.usefixtures("_briefly")
def test_more_connections_bring_more_until_the_link_is_full(
    told: Any, octets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ranged_server(octets, per_connection=MB, total=12 * MB) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        ended, found = told("--probe", f"gs://{BUCKET}/{OBJECT}")
    assert ended == 0
    probed = found["probe"]
    rates = {rate["connections"]: rate["bytes_per_second"] for rate in probed["rates"]}
    assert list(rates) == [1, 8, 32]
    # a pace is a ceiling: whatever the machine is busy with, no more than that comes
    assert 0 < rates[1] < 1.5 * MB
    assert rates[1] < rates[8]
    assert rates[32] < 18 * MB
    for rate in probed["rates"]:
        expected = octets.size / rate["bytes_per_second"]
        assert rate["seconds_for_weights"] == pytest.approx(expected)
    assert (probed["object_bytes"], probed["telling"]) == (octets.size, True)


@pytest.mark.usefixtures("_briefly")
def test_the_largest_file_of_the_weights_is_read(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = StrictStorage()
    for path in weights.rglob("*"):
        if path.is_file():
            name = f"kontext/{path.relative_to(weights).as_posix()}"
            server.objects.write("illo-test", {"name": name}, path.read_bytes(), {})
    with storage.strict_storage(server) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        assert run(["doctor", "--probe", "gs://illo-test/kontext/"]) == 0
    shown = capsys.readouterr()
    assert "gs://illo-test/kontext/transformer/model.gguf, 0.6 MB" in shown.out
    assert "all of illo-tiny-2, 1 MB" in shown.out
    assert "too small to tell" in shown.err
    assert "32 connections" in shown.err


def test_what_is_read_is_bounded(octets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MOST_BYTES", 20 * MB)
    with ranged_server(octets) as server:
        source = probing.open_object(BUCKET, OBJECT, emulator=server.url)
        rate = probing.measure(source, 0, 8, 60.0, lambda fraction: None)
        behind = probing.measure(source, 190 * MB, 8, 60.0, lambda fraction: None)
    assert rate.bytes == 20 * MB
    assert behind.bytes == 10 * MB


@pytest.mark.usefixtures("_briefly")
@pytest.mark.parametrize(
    ("place", "ends", "complaint"),
    [
        ("gs://illo-weights/nothing", 1, "nothing: not there"),
        ("gs://illo-weights", 1, "manifest.json: not there"),
        ("weights", 2, "must begin with gs://"),
        ("s3://weights", 2, "only gs://"),
    ],
)
def test_a_place_that_cannot_be_probed_is_told(
    place: str,
    ends: int,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ranged_server(np.zeros(10, np.uint8)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        assert run(["doctor", "--probe", place]) == ends
    shown = capsys.readouterr()
    assert complaint in shown.out + shown.err


def test_nothing_that_came_is_no_speed() -> None:
    nothing = Rate(connections=1, bytes=0, seconds=4.0)
    assert nothing.seconds_for(10**9) is None


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not (tmp_path / "data").exists()
