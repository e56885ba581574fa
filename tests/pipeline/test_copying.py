"""Copied weights are the same weights, whole, and nothing is written over."""

import shutil
from pathlib import Path

import pytest

from deploy.cli import run
from shared.errors import NoRoom, WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import read_manifest
from worker.pipeline.weights import placing
from worker.pipeline.weights.copying import copy_weights
from worker.pipeline.weights.inspect import inspect_weights

MODEL = "transformer/model.gguf"


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_copy_is_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    made = copy_weights(tiny, tmp_path / "deep/copy")
    assert made == read_manifest(tiny)
    assert files_of(tmp_path / "deep/copy") == files_of(tiny)
    assert not inspect_weights(tmp_path / "deep/copy").problem
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_what_the_manifest_does_not_name_stays_behind(weights: Path, tmp_path: Path) -> None:
    (weights / "notes.txt").write_text("mine")
    copy_weights(weights, tmp_path / "copy")
    assert "notes.txt" not in files_of(tmp_path / "copy")


def test_copying_again_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    copy_weights(tiny, tmp_path / "copy")
    before = (tmp_path / "copy" / MODEL).stat().st_mtime_ns
    copy_weights(tiny, tmp_path / "copy")
    assert (tmp_path / "copy" / MODEL).stat().st_mtime_ns == before


@pytest.mark.parametrize("there", ["notes.txt", "manifest.json", "."])
def test_something_else_is_not_written_over(tiny: Path, tmp_path: Path, there: str) -> None:
    directory = tmp_path / "mine"
    if there == ".":
        directory.write_text("a file")
    else:
        directory.mkdir()
        own = (tiny / "manifest.json").read_text().replace("illo-tiny", "another")
        (directory / there).write_text(own)
    with pytest.raises(WrongWeights, match="something else"):
        copy_weights(tiny, directory)
    assert len([*tmp_path.rglob("*")]) == (1 if there == "." else 2)


def _flip(weights: Path) -> None:
    content = (weights / MODEL).read_bytes()
    (weights / MODEL).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_flip, WeightsDamaged),
        (lambda weights: (weights / MODEL).unlink(), WeightsMissing),
        (lambda weights: (weights / "manifest.json").unlink(), WeightsMissing),
    ],
)
def test_what_is_not_whole_is_not_copied(
    weights: Path, tmp_path: Path, spoil: object, error: type[Exception]
) -> None:
    assert callable(spoil)
    spoil(weights)
    with pytest.raises(error):
        copy_weights(weights, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_full_disk_is_told_before_anything_is_copied(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "SPARE_BYTES", 2**60)
    with pytest.raises(NoRoom):
        copy_weights(tiny, tmp_path / "copy")
    assert not [*tmp_path.iterdir()]


def test_the_command_copies_the_small_artist_or_makes_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["weights", "tiny", str(tmp_path / "artist")]) == 0
    assert run(["weights", "tiny", "--random", str(tmp_path / "random")]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'artist'}: illo-small-artist" in shown
    assert f"{tmp_path / 'random'}: illo-tiny-" in shown
    assert read_manifest(tmp_path / "artist").text_tokens == 32
    assert run(["weights", "tiny", str(tmp_path / "random")]) != 0
    assert "something else" in capsys.readouterr().err
