"""Weights in a bucket: how they are named, and what is read of them to know which they are."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError

from deploy.ground import require_usable
from shared.cloud_folders import CloudFolder, read_cloud_folder
from shared.errors import BadSettings, WeightsDamaged, WeightsMissing, WeightsUnreachable
from shared.gcp.weights import CloudWeights
from shared.manifest import MAX_BYTES, Expects, Manifest, Role, WeightsFile
from shared.scenes import Weights
from shared.settings import Settings
from shared.wiring import served_manifest
from tests import strict_storage as storage
from tests.strict_storage import BUCKET, StrictStorage

FOLDER = CloudFolder(BUCKET, "kontext/q8")
PATIENCE = timedelta(seconds=30)  # of tests that get over a fault
MANIFEST = Manifest(
    label="in a bucket",
    files=(WeightsFile(path="vae/config.json", role=Role.VAE, bytes=3, sha256="0" * 64),),
    expects=Expects(in_channels=64, blocks=(2, 2), inner_dim=64),
)


@pytest.fixture
def server() -> StrictStorage:
    return StrictStorage()


@pytest.fixture
def url(server: StrictStorage) -> Iterator[str]:
    with storage.strict_storage(server) as url:
        yield url


@pytest.fixture
def weights(url: str) -> CloudWeights:
    return CloudWeights(FOLDER, emulator=url, patience=PATIENCE)


def put(server: StrictStorage, name: str, content: bytes) -> None:
    server.objects.write(BUCKET, {"name": name}, content, {})


def put_manifest(server: StrictStorage, folder: CloudFolder = FOLDER) -> None:
    put(server, folder.name_of("manifest.json"), json.dumps(asdict(MANIFEST)).encode())


# --- how they are named ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("gs://stories-weights", CloudFolder("stories-weights")),
        ("gs://stories-weights/", CloudFolder("stories-weights")),
        ("gs://a.b_c/kontext/q8", CloudFolder("a.b_c", "kontext/q8")),
        ("gs://abc/kontext/", CloudFolder("abc", "kontext")),
        ("tiny", None),
        ("/mnt/weights", None),
        ("gs:/bucket", None),
    ],
)
def test_a_url_names_a_folder_of_a_bucket(text: str, folder: CloudFolder | None) -> None:
    assert read_cloud_folder(text) == folder
    if folder:
        assert str(folder) == text.removesuffix("/")


@pytest.mark.parametrize(
    "text",
    [
        "gs://",
        "gs://ab",
        "gs://Stories",
        "gs://-abc",
        "gs://abc-",
        "gs://a..b",
        f"gs://{'a' * 64}",
        "gs://user@abc/x",
        "gs://abc:80/x",
        "gs://abc//x",
        "gs://abc/x//",
        "gs://abc/../x",
        "gs://abc/./x",
        "gs://abc/x?generation=1",
        "gs://abc/x#1",
        "gs://abc/x*",
        "gs://abc/x y",
        "gs://abc/x\ny",
        f"gs://abc/{'x' * 513}",
        "s3://abc/x",
        "https://storage.googleapis.com/abc/x",
        "GS://abc/x",
    ],
)
def test_what_is_no_folder_of_a_bucket_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_cloud_folder(text)


def test_objects_of_a_folder_begin_with_its_prefix() -> None:
    assert CloudFolder("abc", "x").name_of("vae/config.json") == "x/vae/config.json"
    assert CloudFolder("abc").name_of("vae/config.json") == "vae/config.json"


# --- which they are -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [FOLDER, CloudFolder(BUCKET)], ids=str)
def test_which_weights_are_served_is_read_from_the_bucket(
    server: StrictStorage, url: str, folder: CloudFolder
) -> None:
    put_manifest(server, folder)
    settings = Settings.read({"ILLO_WEIGHTS": str(folder), "STORAGE_EMULATOR_HOST": url})
    assert served_manifest(settings).weights == Weights(label="in a bucket", sha256=MANIFEST.sha256)
    assert server.seen.count(storage.DOWNLOAD) == 1


def test_up_looks_into_the_bucket_before_it_starts_anything(
    server: StrictStorage, url: str
) -> None:
    settings = Settings.read({"ILLO_WEIGHTS": str(FOLDER), "STORAGE_EMULATOR_HOST": url})
    with pytest.raises(BadSettings, match=rf"^ILLO_WEIGHTS: {FOLDER}/manifest\.json: not there"):
        require_usable(settings)
    put_manifest(server)
    assert require_usable(settings) == Weights(label="in a bucket", sha256=MANIFEST.sha256)


def test_weights_of_a_bucket_are_no_folder_here() -> None:
    settings = Settings.read({"ILLO_WEIGHTS": str(FOLDER)})
    assert settings.weights_bucket == FOLDER
    with pytest.raises(WeightsMissing, match="no folder of this machine"):
        _ = settings.weights_directory


def test_a_manifest_that_is_not_there_is_named(weights: CloudWeights) -> None:
    with pytest.raises(WeightsMissing, match=rf"^{FOLDER}/manifest\.json: not there"):
        weights.manifest()


def test_a_bucket_that_may_not_be_read_says_which_role_is_missing(
    weights: CloudWeights, server: StrictStorage
) -> None:
    put_manifest(server)
    server.fail(storage.FORBIDDEN, at=storage.STAT)
    with pytest.raises(WeightsMissing, match=rf"objectViewer on gs://{BUCKET}"):
        weights.manifest()


@pytest.mark.parametrize("fault", [storage.BUSY, storage.GONE, storage.RESET, storage.CUT])
@pytest.mark.parametrize("at", [storage.STAT, storage.DOWNLOAD])
def test_what_passes_is_tried_again(
    weights: CloudWeights, server: StrictStorage, fault: str, at: str
) -> None:
    put_manifest(server)
    server.fail(fault, at=at, times=2)
    assert weights.manifest() == MANIFEST


@pytest.mark.parametrize("fault", [storage.FLIPPED, storage.SHORT])
def test_bytes_that_went_wrong_on_the_way_are_read_again(
    weights: CloudWeights, server: StrictStorage, fault: str
) -> None:
    put_manifest(server)
    server.fail(fault, at=storage.DOWNLOAD)
    assert weights.manifest() == MANIFEST
    server.fail(fault, at=storage.DOWNLOAD, times=2)
    with pytest.raises(WeightsUnreachable, match="does not come as it is stored"):
        weights.manifest()


def test_a_bucket_that_does_not_answer_is_given_up(url: str, server: StrictStorage) -> None:
    put_manifest(server)
    server.fail(storage.BUSY, at=storage.STAT, times=1_000)
    weights = CloudWeights(FOLDER, emulator=url, patience=timedelta(seconds=0.2))
    with pytest.raises(WeightsUnreachable, match="try again later"):
        weights.manifest()


def test_a_huge_manifest_is_not_fetched(weights: CloudWeights, server: StrictStorage) -> None:
    put(server, FOLDER.name_of("manifest.json"), b" " * (MAX_BYTES + 1))
    with pytest.raises(WeightsDamaged, match="larger than"):
        weights.manifest()
    assert storage.DOWNLOAD not in server.seen


def test_a_manifest_that_is_none_is_named_with_its_bucket(
    weights: CloudWeights, server: StrictStorage
) -> None:
    put(server, FOLDER.name_of("manifest.json"), b"{}")
    with pytest.raises(WeightsDamaged, match=rf"^{FOLDER}/manifest\.json: format None"):
        weights.manifest()


def test_without_credentials_google_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(**_: object) -> None:
        raise DefaultCredentialsError("none were found")

    monkeypatch.setattr(google.auth, "default", nobody)
    with pytest.raises(WeightsUnreachable, match="no Google credentials: none were found"):
        CloudWeights(FOLDER)


def test_a_folder_is_listed_without_its_neighbours(
    weights: CloudWeights, server: StrictStorage
) -> None:
    for name in ("kontext/q8/vae/a", "kontext/q8/b", "kontext/q8-old/c", "kontext/d"):
        put(server, name, name.encode())
    assert [file.path for file in weights.files()] == ["b", "vae/a"]
    assert weights.files()[0].bytes == len("kontext/q8/b")
    assert weights.head(weights.files()[0], 4) == b"kont"
    assert weights.head(weights.files()[0], 400) == b"kontext/q8/b"


def test_a_folder_is_listed_page_by_page(
    weights: CloudWeights, server: StrictStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.strict_objects.PAGE", 2)
    for number in range(5):
        put(server, FOLDER.name_of(f"{number}"), b"x")
    assert [file.path for file in weights.files()] == [str(number) for number in range(5)]
    assert server.seen.count(storage.LIST) == 3


def test_settings_take_only_sound_places(tmp_path: Path) -> None:
    assert Settings.read({"ILLO_WEIGHTS": "gs://abc/x/"}).weights == "gs://abc/x"
    assert Settings.read({"ILLO_WEIGHTS": str(tmp_path)}).weights_directory == tmp_path
    for wrong in ("gs://Abc", "s3://abc", "gs://abc/x?y"):
        with pytest.raises(BadSettings, match="ILLO_WEIGHTS: must be `tiny`, a folder or gs://"):
            Settings.read({"ILLO_WEIGHTS": wrong})
