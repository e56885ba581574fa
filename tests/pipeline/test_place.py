"""Directories and buckets are opened alike, and judged before a tensor is asked for."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import (
    WeightsDamaged,
    WeightsError,
    WeightsMissing,
    WeightsUnreachable,
    WrongWeights,
)
from shared.manifest import Role, describe_file, read_manifest, write_manifest
from tests.pipeline.test_verify import remeasure
from tests.pipeline.test_weights import described_anew
from tests.ranged_server import (
    BUSY,
    FLIPPED,
    FOLDER,
    FORBIDDEN,
    OBJECT,
    PREFIX,
    REPLACED,
    RESET,
    Fault,
    RangedServer,
    objects_of,
    ranged_server,
)
from tests.unit.gguf_files import write_transformer
from worker.pipeline.tiny_shapes import TRANSFORMER
from worker.pipeline.weights.files import large_files
from worker.pipeline.weights.flux_shapes import Naming, expected_shapes
from worker.pipeline.weights.gguf_header import GgufHeader, read_header
from worker.pipeline.weights.opening import Opened, checksum_by_digest, open_weights
from worker.pipeline.weights.place import LocalPlace, open_place
from worker.pipeline.weights.prefix import WINDOW_BYTES, Prefix
from worker.pipeline.weights.safetensors_header import read_safetensors_header
from worker.pipeline.weights.sources import LocalFile
from worker.pipeline.weights.verify import verify_folder

MODEL = Path("transformer/model.gguf")
SMALL = ("model_index.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json")

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


@contextmanager
def served(folder: Path, **shape: Any) -> Iterator[RangedServer]:
    with ranged_server(objects_of(folder), **shape) as server:
        yield server


def opened_from(server: RangedServer, folder: Path) -> Opened:
    folder.mkdir(exist_ok=True)
    return open_weights(open_place(FOLDER, folder=folder, endpoint=server.url))[0]


def test_both_places_say_the_same_of_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    here, _ = open_weights(LocalPlace(tiny))
    with served(tiny) as server:
        there = opened_from(server, tmp_path / "small")
    assert there.manifest == here.manifest
    assert there.layout == here.layout
    assert [file.role for file in there.files] == [file.role for file in here.files]
    for ours, theirs in zip(here.files, there.files, strict=True):
        assert ours.header.tensors == theirs.header.tensors


def test_headers_are_those_that_are_read_from_the_file(tiny: Path) -> None:
    opened, _ = open_weights(LocalPlace(tiny))
    for file in opened.files:
        read = read_header if isinstance(file.header, GgufHeader) else read_safetensors_header
        assert read(Path(file.header.path)).tensors == file.header.tensors


def test_small_files_come_into_the_folder_and_large_ones_do_not(tiny: Path, tmp_path: Path) -> None:
    with served(tiny) as server:
        folder = opened_from(server, tmp_path / "small").folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    manifest = read_manifest(tiny)
    assert found == {file.path for file in manifest.files} - {
        file.path for file in large_files(manifest)
    }
    for name in found:
        assert (folder / name).read_bytes() == (tiny / name).read_bytes()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", [BUSY, RESET])
def test_small_files_are_asked_for_again(tiny: Path, tmp_path: Path, name: str, kind: str) -> None:
    with served(tiny, faults=(Fault(kind, at=3, object=f"{PREFIX}/{name}"),)) as server:
        opened_from(server, tmp_path / "small")
        assert server.happened == [kind]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_of_other_bytes_is_refused(weights: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((weights / name).read_bytes())
    content[-1] ^= 1
    (weights / name).write_bytes(content)
    said = rf"{name}: its sha256 is not the manifest's"
    with pytest.raises(WeightsDamaged, match=said):
        open_weights(LocalPlace(weights))
    with served(weights) as server, pytest.raises(WeightsDamaged, match=said):
        opened_from(server, tmp_path / "small")


def test_a_small_file_that_is_damaged_on_the_way_is_refused(tiny: Path, tmp_path: Path) -> None:
    faults = (Fault(FLIPPED, at=5, object=f"{PREFIX}/model_index.json"),)
    with (
        served(tiny, faults=faults) as server,
        pytest.raises(WeightsDamaged, match=r"model_index\.json: what came has the crc32c"),
    ):
        opened_from(server, tmp_path / "small")


@pytest.mark.parametrize("name", ["manifest.json", *SMALL, str(MODEL)])
def test_an_object_that_is_not_there_is_named(tiny: Path, tmp_path: Path, name: str) -> None:
    held = objects_of(tiny)
    del held[f"{PREFIX}/{name}"]
    with (
        ranged_server(held) as server,
        pytest.raises(WeightsMissing, match=f"{FOLDER}/{name}: not there; .*`illo weights push`"),
    ):
        opened_from(server, tmp_path / "small")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("vae/config.json", '"norm_num_groups": 4', '"norm_num_groups": 3'),
        ("text_encoder_2/config.json", '"d_model": 64', '"d_model": 32'),
        ("scheduler/scheduler_config.json", '"base_shift": 0.5', '"base_shift": null'),
    ],
)
def test_a_config_that_is_refused_is_named_by_where_it_lies(
    tiny: Path, tmp_path: Path, name: str, right: str, wrong: str
) -> None:
    weights = Path(shutil.copytree(tiny, tmp_path / "weights"))
    (weights / name).write_text((weights / name).read_text().replace(right, wrong))
    remeasure(weights, name)
    with served(weights) as server, pytest.raises(WeightsError) as refused:
        opened_from(server, tmp_path / "small")
    (problem,) = verify_folder(weights).problems
    assert str(refused.value) == problem.replace(str(weights), FOLDER)
    assert f"{FOLDER}/{name}: " in str(refused.value)


def test_who_may_not_read_is_told_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    faults = (Fault(FORBIDDEN, at=0, object=f"{PREFIX}/manifest.json"),)
    with (
        served(tiny, faults=faults) as server,
        pytest.raises(WeightsMissing, match=r"roles/storage\.objectViewer"),
    ):
        opened_from(server, tmp_path / "small")


def test_a_bucket_that_does_not_answer_is_unreachable(tmp_path: Path) -> None:
    place = open_place(FOLDER, folder=tmp_path, endpoint="http://127.0.0.1:1")
    with pytest.raises(WeightsUnreachable, match="can be reached"):
        open_weights(place)


def test_an_object_that_is_replaced_while_its_header_is_read_is_refused(
    tiny: Path, tmp_path: Path
) -> None:
    with (
        served(tiny, faults=(Fault(REPLACED, at=0),)) as server,
        pytest.raises(WeightsDamaged, match="replaced"),
    ):
        opened_from(server, tmp_path / "small")


def lengthened(weights: Path) -> None:
    with (weights / MODEL).open("ab") as file:
        file.write(b"more")


def of_depth(weights: Path) -> None:
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS)
    write_transformer(weights / MODEL, shapes | {"x_embedder.weight": (64, 128)})
    described_anew(weights)


def hostile(weights: Path) -> None:
    """A header that promises more keys than any file has."""
    head = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + b"\xff" * 8
    (weights / MODEL).write_bytes(head + bytes(3 * WINDOW_BYTES))
    described_anew(weights)


def of_other_clip(weights: Path) -> None:
    config = weights / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 48}))
    described_anew(weights)


def of_two_transformers(weights: Path) -> None:
    shutil.copy(weights / MODEL, weights / "transformer/other.gguf")
    other = describe_file(weights, "transformer/other.gguf", Role.TRANSFORMER)
    manifest = read_manifest(weights)
    write_manifest(weights, replace(manifest, files=(*manifest.files, other)))


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lengthened, WeightsDamaged, r"model\.gguf: has \d+ bytes, expected \d+"),
        (of_depth, WrongWeights, r"this is FLUX\.1-Depth-dev"),
        (hostile, WeightsDamaged, "the number of metadata keys is 18446744073709551615"),
        (of_other_clip, WrongWeights, "hidden_size is 48"),
        (of_two_transformers, WeightsMissing, "lists 2 transformer files"),
    ],
)
def test_wrong_weights_are_refused_before_a_tensor_is_asked_for(
    weights: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    error: type[WeightsError],
    said: str,
) -> None:
    spoil(weights)
    with pytest.raises(error, match=said):
        open_weights(LocalPlace(weights))
    with served(weights) as server:
        with pytest.raises(error, match=said):
            opened_from(server, tmp_path / "small")
        of_model = [(start, stop) for name, start, stop in server.asked_of if name == OBJECT]
    # of the transformer one window at most, and no second one
    assert all(start == 0 and stop <= WINDOW_BYTES for start, stop in of_model)


def test_headers_that_are_longer_than_a_window_are_read_on(tmp_path: Path) -> None:
    octets = np.random.default_rng(5).integers(0, 256, 3 * WINDOW_BYTES, dtype=np.uint8)
    octets.tofile(tmp_path / "file")
    prefix = Prefix(LocalFile(tmp_path / "file"))
    assert prefix.read(10) == octets[:10].tobytes()
    assert prefix.read(WINDOW_BYTES) == octets[10 : WINDOW_BYTES + 10].tobytes()
    prefix.seek(2 * WINDOW_BYTES + 5)
    assert prefix.read(7) == octets[2 * WINDOW_BYTES + 5 :][:7].tobytes()
    assert prefix.before(prefix.tell()) == octets[: 2 * WINDOW_BYTES + 12].tobytes()
    prefix.seek(octets.size - 2)
    assert prefix.read(9) == octets[-2:].tobytes()


def test_without_a_crc32c_the_sha256_vouches_for_the_file(tiny: Path, tmp_path: Path) -> None:
    [file] = [file for file in read_manifest(tiny).files if file.path == str(MODEL)]
    source = LocalFile(tiny / MODEL)
    described = describe_file(tiny, str(MODEL), Role.TRANSFORMER)
    assert checksum_by_digest(source, replace(file, sha256=described.sha256)) == described.crc32c
    with pytest.raises(WeightsDamaged, match=r"model\.gguf: its sha256 is not the manifest's"):
        checksum_by_digest(source, replace(file, sha256="0" * 64))


def test_an_old_manifest_without_checksums_is_opened_all_the_same(
    weights: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(weights)
    files = tuple(replace(file, crc32c=None) for file in manifest.files)
    write_manifest(weights, replace(manifest, files=files))
    _, wanted = open_weights(LocalPlace(weights))
    crc32cs = {
        describe_file(weights, file.path, file.role).crc32c for file in large_files(manifest)
    }
    assert {file.crc32c for file in wanted} == crc32cs
