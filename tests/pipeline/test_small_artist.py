"""The weights that illo brings are whole, small, and what `tiny` means."""

import tomllib
from math import prod
from pathlib import Path

import pytest

from shared.manifest import digests_of, read_manifest
from shared.settings import SMALL_ARTIST, Settings
from worker.pipeline.artist.captions import TEXT_TOKENS
from worker.pipeline.artist.drawings import SIZES as PICTURE_SIZES
from worker.pipeline.artist.export import LABEL
from worker.pipeline.artist.shapes import SIZES, TRANSFORMER_CONFIG
from worker.pipeline.weights.inspect import inspect_weights

ROOT = Path(__file__).parents[2]
MOST_BYTES = 12 * 10**6

pytestmark = pytest.mark.filterwarnings("error")


def test_tiny_means_them_wherever_the_data_lie(tmp_path: Path) -> None:
    assert Settings(data=tmp_path).weights_directory == SMALL_ARTIST
    assert Settings.read({"ILLO_WEIGHTS": str(tmp_path)}).weights_directory == tmp_path


def test_every_file_is_what_the_manifest_says_and_there_is_no_other() -> None:
    manifest = read_manifest(SMALL_ARTIST)
    found = {
        path.relative_to(SMALL_ARTIST).as_posix()
        for path in SMALL_ARTIST.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert found == {file.path for file in manifest.files}
    for file in manifest.files:
        digests = digests_of(SMALL_ARTIST / file.path)
        assert (digests.sha256, digests.crc32c) == (file.sha256, file.crc32c), file.path


def test_they_are_the_artist_as_this_code_would_train_it() -> None:
    manifest = read_manifest(SMALL_ARTIST)
    assert (manifest.label, manifest.text_tokens) == (LABEL, TEXT_TOKENS)
    assert manifest.usual_pixels == prod(PICTURE_SIZES[0])
    assert manifest.expects.blocks == (SIZES.double_blocks, SIZES.single_blocks)
    assert manifest.expects.inner_dim == SIZES.inner
    packed = {file.path: file.quantization for file in manifest.files if file.quantization}
    assert packed == {"transformer/model.gguf": "Q8_0", "text_encoder_2/model.gguf": "Q8_0"}
    assert TRANSFORMER_CONFIG["num_layers"] == SIZES.double_blocks


def test_a_worker_would_take_them_and_they_stay_small() -> None:
    found = inspect_weights(SMALL_ARTIST)
    assert found.problem is None
    assert found.bytes <= MOST_BYTES


def test_a_package_brings_all_of_them() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = package["package-data"]["shared"]
    brought = {path for pattern in patterns for path in (ROOT / "shared").glob(pattern)}
    assert {path for path in SMALL_ARTIST.rglob("*") if path.is_file()} <= brought
