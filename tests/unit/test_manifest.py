"""The manifest: what it says of the weights, and how a directory is held against it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import WeightsDamaged, WeightsMissing
from shared.manifest import (
    LEAST_TEXT_TOKENS,
    LEAST_USUAL_PIXELS,
    TEXT_TOKENS,
    Digests,
    Expects,
    Manifest,
    Role,
    WeightsFile,
    describe_file,
    digests_of,
    read_manifest,
    write_manifest,
)
from shared.scenes import USUAL_PIXELS
from worker.pipeline.weights.files import check_files

EXPECTS = Expects(in_channels=64, blocks=(2, 2), inner_dim=64)


def a_file(path: str = "vae/model.safetensors", **changes: Any) -> WeightsFile:
    return replace(WeightsFile(path=path, role=Role.VAE, bytes=3, sha256="0" * 64), **changes)


def a_manifest(*files: WeightsFile, label: str = "test") -> Manifest:
    return Manifest(label=label, files=files or (a_file(),), expects=EXPECTS)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory of two files, as its manifest says."""
    for name in ("vae/model.safetensors", "transformer/model.gguf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"abc")
    write_manifest(
        tmp_path,
        a_manifest(
            describe_file(tmp_path, "vae/model.safetensors", Role.VAE),
            describe_file(
                tmp_path, "transformer/model.gguf", Role.TRANSFORMER, quantization="Q8_0"
            ),
        ),
    )
    return tmp_path


def damaged(path: Path) -> str:
    with pytest.raises(WeightsDamaged) as caught:
        read_manifest(path)
    assert "manifest.json: " in str(caught.value)
    return str(caught.value)


def rewritten(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return directory


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = a_manifest(a_file(), a_file("a/ü.json", crc32c="AAAAAA==", quantization="Q8_0"))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_a_described_file_has_both_digests(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    # the check value that every description of CRC32C gives, 0xE3069283
    (tmp_path / "vae/a").write_bytes(b"123456789")
    described = describe_file(tmp_path, "vae/a", Role.VAE)
    assert described.crc32c == "4waSgw=="
    assert described.sha256 == hashlib.sha256(b"123456789").hexdigest()
    assert described.bytes == 9


def test_digests_do_not_depend_on_how_the_bytes_came(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # more than is read at once
    (tmp_path / "a").write_bytes(content)
    counts: list[int] = []
    read, whole = digests_of(tmp_path / "a", on_bytes=counts.append), Digests()
    whole.add(content)
    assert (read.sha256, read.crc32c) == (whole.sha256, whole.crc32c)
    assert len(counts) > 1
    assert sum(counts) == len(content)


def test_a_manifest_from_before_there_were_checksums_is_read(weights: Path) -> None:
    written = read_manifest(weights)
    rewritten(weights, lambda content: [file.pop("crc32c") for file in content["files"]])
    old = read_manifest(weights)
    assert [file.crc32c for file in old.files] == [None, None]
    assert old.sha256 == written.sha256
    check_files(weights, old, digests=True)


def test_a_manifest_that_says_nothing_of_text_tokens_has_those_of_the_full_size(
    weights: Path,
) -> None:
    assert "text_tokens" not in json.loads((weights / "manifest.json").read_text())
    assert read_manifest(weights).text_tokens == TEXT_TOKENS == 512


@pytest.mark.parametrize("count", [LEAST_TEXT_TOKENS, 32, TEXT_TOKENS])
def test_a_manifest_may_say_how_many_text_tokens_are_read(weights: Path, count: int) -> None:
    manifest = replace(read_manifest(weights), text_tokens=count)
    write_manifest(weights, manifest)
    assert read_manifest(weights) == manifest


@pytest.mark.parametrize("count", [LEAST_TEXT_TOKENS - 1, TEXT_TOKENS + 1, 32.0, "32", None, True])
def test_a_number_of_text_tokens_out_of_bounds_is_refused(weights: Path, count: object) -> None:
    rewritten(weights, lambda content: content.update(text_tokens=count))
    assert "text_tokens: Input should be" in damaged(weights)


def test_the_same_files_read_with_fewer_text_tokens_are_other_weights() -> None:
    manifest = a_manifest()
    digests = {replace(manifest, text_tokens=count).sha256 for count in (8, 32, TEXT_TOKENS)}
    assert len(digests) == 3
    assert manifest.sha256 in digests


def test_a_manifest_that_says_nothing_of_usual_pixels_is_for_a_megapixel(weights: Path) -> None:
    assert "usual_pixels" not in json.loads((weights / "manifest.json").read_text())
    assert read_manifest(weights).usual_pixels == USUAL_PIXELS == 2**20


@pytest.mark.parametrize("pixels", [LEAST_USUAL_PIXELS, 128 * 128, USUAL_PIXELS])
def test_a_manifest_may_say_how_large_pictures_usually_are(weights: Path, pixels: int) -> None:
    manifest = replace(read_manifest(weights), usual_pixels=pixels)
    write_manifest(weights, manifest)
    assert read_manifest(weights) == manifest
    assert manifest.sha256 == replace(manifest, usual_pixels=USUAL_PIXELS).sha256


@pytest.mark.parametrize(
    "pixels", [LEAST_USUAL_PIXELS - 1, USUAL_PIXELS + 1, 16384.0, "16384", None, True]
)
def test_a_usual_size_out_of_bounds_is_refused(weights: Path, pixels: object) -> None:
    rewritten(weights, lambda content: content.update(usual_pixels=pixels))
    assert "usual_pixels: Input should be" in damaged(weights)


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"`illo weights prepare`.*ILLO_WEIGHTS=tiny"):
        read_manifest(tmp_path)
    with pytest.raises(WeightsMissing):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "\0", "[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    assert "not JSON" in damaged(tmp_path)


@pytest.mark.parametrize("format_", [0, 2, "1", None])
def test_an_unknown_format_is_refused_by_name(weights: Path, format_: object) -> None:
    said = damaged(rewritten(weights, lambda content: content.update(format=format_)))
    assert f"format {format_!r} is unknown" in said


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (1024 * 1024 + 1))
    assert "larger than" in damaged(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("label"), "label"),
        (lambda content: content.update(label=""), "label"),
        (lambda content: content.update(extra=1), "extra"),
        (lambda content: content["files"][0].update(role="brush"), "files.0.role"),
        (lambda content: content["files"][0].update(sha256="xyz"), "files.0.sha256"),
        (lambda content: content["files"][0].update(bytes=-1), "files.0.bytes"),
        (lambda content: content["files"].append(content["files"][0]), "listed twice"),
        (lambda content: content["expects"].update(blocks=[1]), "expects.blocks"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    weights: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    assert said in damaged(rewritten(weights, change))


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "", "a\\b", "a\0b", ".."]
)
def test_a_path_out_of_the_directory_is_refused(weights: Path, path: str) -> None:
    said = damaged(rewritten(weights, lambda content: content["files"][0].update(path=path)))
    assert "files.0.path" in said


def test_the_digest_follows_the_files_and_nothing_else() -> None:
    one, other = a_file("vae/a"), a_file("vae/b")
    digest = a_manifest(one, other).sha256
    assert a_manifest(other, one, label="renamed").sha256 == digest
    assert a_manifest(replace(one, crc32c="AAAAAA=="), other).sha256 == digest
    assert a_manifest(replace(one, sha256="1" * 64), other).sha256 != digest
    assert a_manifest(replace(one, path="vae/c"), other).sha256 != digest
    assert a_manifest(replace(one, bytes=4), other).sha256 != digest
    assert a_manifest(one).sha256 != digest


def test_whole_files_pass(weights: Path) -> None:
    fractions: list[float] = []
    check_files(weights, read_manifest(weights), digests=True, on_fraction=fractions.append)
    assert fractions == [0.5, 1.0]


def test_a_missing_file_is_named(weights: Path) -> None:
    (weights / "vae/model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"vae/model\.safetensors: not there"):
        check_files(weights, read_manifest(weights))


def test_a_file_of_another_size_is_named(weights: Path) -> None:
    (weights / "vae/model.safetensors").write_bytes(b"ab")
    with pytest.raises(WeightsDamaged, match=r"model\.safetensors: has 2 bytes, expected 3"):
        check_files(weights, read_manifest(weights))


def test_a_changed_byte_is_found_when_every_byte_is_read(weights: Path) -> None:
    (weights / "transformer/model.gguf").write_bytes(b"abd")
    check_files(weights, read_manifest(weights))
    with pytest.raises(WeightsDamaged, match=r"model\.gguf: its sha256"):
        check_files(weights, read_manifest(weights), digests=True)


def test_a_link_out_of_the_directory_is_refused(weights: Path, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(b"abc")
    (weights / "vae/model.safetensors").unlink()
    (weights / "vae/model.safetensors").symlink_to(outside)
    with pytest.raises(WeightsDamaged, match="leads out of the directory"):
        check_files(weights, read_manifest(weights))


def test_a_file_that_a_loader_might_pick_up_is_refused(weights: Path) -> None:
    (weights / "README.md").write_text("notes beside the parts are welcome")
    check_files(weights, read_manifest(weights))
    (weights / "vae/adapter_config.json").write_text("{}")
    with pytest.raises(WeightsDamaged, match=r"adapter_config\.json: not in the manifest"):
        check_files(weights, read_manifest(weights))
