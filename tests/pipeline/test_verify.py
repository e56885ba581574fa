"""Weights held against their manifest, in a folder and in a bucket: everything that is wrong."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.cli import run
from shared.cloud_folders import CloudFolder
from shared.errors import WeightsMissing, WeightsUnreachable
from shared.manifest import Digests, parse_manifest, read_manifest
from tests import strict_storage as storage
from tests.strict_storage import BUCKET, StrictStorage
from tests.unit.gguf_files import write_transformer
from worker.pipeline.tiny_shapes import TRANSFORMER
from worker.pipeline.weights import cloud_source, every_byte
from worker.pipeline.weights.flux_shapes import Naming, expected_shapes
from worker.pipeline.weights.verify import Verification, verify_folder
from worker.pipeline.weights.verify_bucket import verify_bucket

FOLDER = CloudFolder(BUCKET, "kontext")
MODEL, WORDS = "transformer/model.gguf", "tokenizer/vocab.json"

Verify = Callable[..., Verification]


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny weights, to do harm to."""
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


@pytest.fixture
def server() -> StrictStorage:
    return StrictStorage()


@pytest.fixture
def url(server: StrictStorage) -> Iterator[str]:
    with storage.strict_storage(server) as url:
        yield url


@pytest.fixture
def in_bucket(weights: Path, server: StrictStorage, url: str) -> Verify:
    """Upload the weights as they are now, and verify them there."""

    def verify(*, every_byte: bool = False) -> Verification:
        for path in sorted(weights.rglob("*")):
            if path.is_file():
                name = FOLDER.name_of(path.relative_to(weights).as_posix())
                server.objects.write(BUCKET, {"name": name}, path.read_bytes(), {})
        return verify_bucket(FOLDER, emulator=url, every_byte=every_byte)

    return verify


@pytest.fixture(params=["folder", "bucket", "every byte of a bucket"])
def verified(request: pytest.FixtureRequest, weights: Path, in_bucket: Verify) -> Verify:
    """Verify the weights in a folder, or in a bucket in either way."""
    if request.param == "folder":
        return lambda: verify_folder(weights)
    return lambda: in_bucket(every_byte=request.param != "bucket")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remeasure(weights: Path, *paths: str) -> None:
    """Let the manifest vouch for files as they are now."""
    manifest = weights / "manifest.json"
    content = json.loads(manifest.read_text())
    for file in content["files"]:
        if file["path"] in paths:
            octets = (weights / file["path"]).read_bytes()
            digests = Digests()
            digests.add(octets)
            file |= {"bytes": len(octets), "sha256": digests.sha256, "crc32c": digests.crc32c}
    manifest.write_text(json.dumps(content))


def test_whole_weights_have_no_problems(verified: Verify, tiny: Path) -> None:
    found = verified()
    assert found.problems == ()
    assert found.notes == ()
    manifest = read_manifest(tiny)
    assert (found.label, found.sha256) == (manifest.label, manifest.sha256)
    assert (found.files, found.bytes) == (
        len(manifest.files),
        sum(file.bytes for file in manifest.files),
    )


def test_all_that_is_wrong_is_told_at_once(verified: Verify, weights: Path) -> None:
    flip(weights / WORDS)
    (weights / "vae/config.json").unlink()
    (weights / "scheduler/scheduler_config.json").write_text("{}")
    (weights / "vae/adapter_config.json").write_text("{}")
    problems = verified().problems
    assert len(problems) == 4
    for name, said in (
        (WORDS, "the manifest"),
        ("vae/config.json", "not there"),
        ("scheduler/scheduler_config.json", "has 2 bytes, expected"),
        ("vae/adapter_config.json", "not in the manifest"),
    ):
        assert any(f"{name}: " in problem and said in problem for problem in problems), name


def test_a_model_that_the_manifest_vouches_for_is_judged_all_the_same(
    verified: Verify, weights: Path
) -> None:
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS) | {"x_embedder.weight": (64, 128)}
    write_transformer(weights / MODEL, shapes)
    remeasure(weights, MODEL)
    (problem,) = verified().problems
    assert "FLUX.1-Depth-dev" in problem
    assert problem.startswith((str(weights), str(FOLDER)))


def test_a_bucket_s_weights_are_told_by_where_they_are(in_bucket: Verify, weights: Path) -> None:
    flip(weights / MODEL)
    (problem,) = in_bucket().problems
    assert problem.startswith(f"{FOLDER}/{MODEL}: is stored with the crc32c ")


def test_without_checksums_in_the_manifest_only_every_byte_tells(
    in_bucket: Verify, weights: Path
) -> None:
    manifest = weights / "manifest.json"
    content = json.loads(manifest.read_text())
    for file in content["files"]:
        file["crc32c"] = None
    manifest.write_text(json.dumps(content))
    flip(weights / MODEL)
    quick = in_bucket()
    assert quick.problems == ()
    assert any(MODEL in note and "--every-byte" in note for note in quick.notes)
    (problem,) = in_bucket(every_byte=True).problems
    assert f"{FOLDER}/{MODEL}: its sha256" in problem


def test_an_object_is_digested_window_by_window(
    in_bucket: Verify, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_byte, "WINDOW_BYTES", 100_000)
    assert in_bucket(every_byte=True).problems == ()


def test_a_bucket_tells_its_checksums_and_is_asked_for_headers_alone(
    in_bucket: Verify, server: StrictStorage
) -> None:
    assert in_bucket().problems == ()
    read = server.seen.count(storage.DOWNLOAD)
    assert server.seen.count(storage.LIST) == 1
    # the manifest, four models' beginnings, five configs and the seven files of the tokenizers
    assert read == 17


def test_nothing_is_left_of_what_was_looked_at(
    in_bucket: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert in_bucket().problems == ()
    assert list(scratch.iterdir()) == []


def test_a_bucket_that_stops_answering_is_no_verdict(
    in_bucket: Verify, server: StrictStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_bucket().problems == ()
    monkeypatch.setattr(cloud_source, "FIRST_PAUSE", 0.0)
    server.fail(storage.BUSY, at=storage.STAT, times=1_000)
    monkeypatch.setattr(
        "shared.gcp.weights.CloudWeights.manifest",
        lambda self: read_manifest_of(server),
    )
    with pytest.raises(WeightsUnreachable):
        verify_bucket(FOLDER, emulator=url, every_byte=True)


def read_manifest_of(server: StrictStorage) -> object:
    return parse_manifest(server.objects.held[BUCKET, "kontext/manifest.json"].data, "here")


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path: Path, url: str) -> None:
    with pytest.raises(WeightsMissing, match=r"manifest\.json: not there.*`illo weights prepare`"):
        verify_folder(tmp_path)
    with pytest.raises(WeightsMissing, match=r"manifest\.json: not there.*prepare.*weights push`"):
        verify_bucket(FOLDER, emulator=url)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_ends_as_the_weights_are(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["weights", "verify", str(weights)]) == 0
    assert "whole: every byte was read" in capsys.readouterr().out
    flip(weights / MODEL)
    assert run(["weights", "verify", str(weights), "--json"]) == 1
    said = capsys.readouterr()
    assert len(json.loads(said.out)["problems"]) == 1
    assert f"{MODEL}: its sha256" in said.err
    assert run(["weights", "verify", str(weights / "nowhere")]) == 1


def test_the_command_reads_a_bucket_of_an_emulator(
    in_bucket: Verify,
    weights: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    in_bucket()
    for how in ([], ["--every-byte"]):
        assert run(["weights", "verify", str(FOLDER), "--json", *how]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["every_byte"], found["problems"]) == (bool(how), [])
    assert run(["weights", "verify", "gs://Not A Bucket"]) == 2


def test_the_command_prepares_what_it_then_verifies(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--transformer", f"{tiny}/{MODEL}", "--t5", f"{tiny}/text_encoder_2/model.gguf"]
    made = str(tmp_path / "made")
    arguments = ["weights", "prepare", *models, "--from", str(tiny), "-o", made]
    assert run([*arguments, "--label", "of a test", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["label"], told["sha256"]) == ("of a test", read_manifest(tiny).sha256)
    assert run(["weights", "verify", made]) == 0
    assert run(arguments) == 1
    assert "holds something already" in capsys.readouterr().err
    assert run([*arguments, "--label", " "]) == 2
