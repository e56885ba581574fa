"""The tiny weights: the same from the same seed, whole or not there at all."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.errors import WrongWeights
from shared.manifest import read_manifest
from worker.pipeline import tiny as tiny_module
from worker.pipeline.tiny import LABEL, make_tiny_weights
from worker.pipeline.weights.files import check_files
from worker.pipeline.weights.flux_shapes import Naming
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.inspect import describe_gguf, inspect_weights

# Changes only together with the label's number: workers and jobs tell weights apart by both.
SHA256 = "a2337c4769f67dae8d27b3f50ddf09437a7bbab9a4482d49ccbeb2bf56135820"


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_the_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    manifest = make_tiny_weights(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tiny)
    assert (manifest.label, manifest.sha256) == (LABEL, SHA256)


def test_another_seed_gives_other_weights_and_says_so(tiny: Path, tmp_path: Path) -> None:
    manifest = make_tiny_weights(tmp_path / "other", seed=1)
    assert manifest.sha256 != read_manifest(tiny).sha256
    assert manifest.label == f"{LABEL}-seed-1"


def test_t5_comes_packed_or_plain_and_the_label_says_which(tiny: Path, tmp_path: Path) -> None:
    manifest = make_tiny_weights(tmp_path / "plain", packed_t5=False)
    assert manifest.label == f"{LABEL}-plain-t5"
    check_files(tmp_path / "plain", manifest, digests=True)
    both = [contents(tiny), contents(tmp_path / "plain")]
    encoders = ["text_encoder_2/model.gguf", "text_encoder_2/model.safetensors"]
    for files, encoder in zip(both, encoders, strict=True):
        assert {name for name in files if "text_encoder_2/model" in name} == {encoder}
    packed = {file.path: file.quantization for file in read_manifest(tiny).files}
    assert packed["text_encoder_2/model.gguf"] == "Q8_0"
    named = {"manifest.json", "transformer/model.gguf", *encoders}  # these contain the label
    parts = [{n: f for n, f in files.items() if n not in named} for files in both]
    assert parts[0] == parts[1]
    with pytest.raises(WrongWeights, match="holds 'illo-tiny-2-plain-t5'"):
        make_tiny_weights(tmp_path / "plain")


def test_either_naming_holds_the_same_numbers_and_the_label_says_which(
    tiny: Path, tmp_path: Path
) -> None:
    manifest = make_tiny_weights(tmp_path / "original", naming=Naming.ORIGINAL)
    assert manifest.label == f"{LABEL}-original"
    check_files(tmp_path / "original", manifest, digests=True)
    both = [contents(tiny), contents(tmp_path / "original")]
    # these contain the label
    named = {"manifest.json", "transformer/model.gguf", "text_encoder_2/model.gguf"}
    parts = [{n: f for n, f in files.items() if n not in named} for files in both]
    assert parts[0] == parts[1]
    headers = [
        read_header(path / "transformer/model.gguf") for path in (tiny, tmp_path / "original")
    ]
    described = [describe_gguf(header) for header in headers]
    assert described[0].parameters == described[1].parameters
    assert "double_blocks.1.img_attn.qkv.weight" in headers[1].tensors
    assert inspect_weights(tmp_path / "original").problem is None


def test_the_manifest_vouches_for_every_byte(tiny: Path) -> None:
    manifest = read_manifest(tiny)
    check_files(tiny, manifest, digests=True)
    assert {file.path for file in manifest.files} | {"manifest.json"} == set(contents(tiny))
    assert sum(file.bytes for file in manifest.files) < 3_000_000


def test_making_them_twice_changes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "tiny"
    first = make_tiny_weights(directory)
    stamps = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert make_tiny_weights(directory) == first
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == stamps
    assert [path.name for path in directory.parent.iterdir()] == ["tiny"]


def test_other_things_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(WrongWeights, match="holds files but no weights"):
        make_tiny_weights(tmp_path)
    assert contents(tmp_path) == {"diary.txt": b"mine"}


def test_weights_of_another_seed_are_not_overwritten(tmp_path: Path) -> None:
    make_tiny_weights(tmp_path / "tiny", seed=1)
    with pytest.raises(WrongWeights, match="holds 'illo-tiny-2-seed-1'"):
        make_tiny_weights(tmp_path / "tiny")


def test_the_directory_appears_complete_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "tiny"
    seen: list[set[str]] = []

    def look() -> None:
        while not directory.exists():
            pass
        seen.append(set(contents(directory)))

    looker = threading.Thread(target=look)
    looker.start()
    make_tiny_weights(directory)
    looker.join()
    assert seen == [set(contents(directory))]

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tiny_module, "write_manifest", fail)
    with pytest.raises(OSError, match="no space"):
        make_tiny_weights(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_several_processes_may_make_them_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from worker.pipeline.tiny import make_tiny_weights; "
        "sys.stdin.read(1); print(make_tiny_weights(pathlib.Path(sys.argv[1])).sha256); "
        "assert 'torch' not in sys.modules"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "tiny")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("x")
        maker.stdin.close()
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.read().strip() == SHA256
        assert maker.wait() == 0
    check_files(tmp_path / "tiny", read_manifest(tmp_path / "tiny"), digests=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
