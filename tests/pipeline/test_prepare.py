"""`prepare_weights`: whole directories from downloads, and refusals before a byte is copied."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared.errors import NoRoom, WeightsDamaged, WeightsError, WeightsMissing, WrongWeights
from shared.manifest import read_manifest
from tests.unit.gguf_files import Info, gguf_bytes, write_transformer
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.tiny_shapes import TRANSFORMER
from worker.pipeline.weights import placing, prepare
from worker.pipeline.weights.files import check_files
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming, expected_shapes
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.inspect import Inspection, inspect_weights
from worker.pipeline.weights.judge import FULL_SIZE, label_for, quantization_of
from worker.pipeline.weights.placing import Way
from worker.pipeline.weights.prepare import Prepared, prepare_weights

FULL = FluxSizes(
    in_channels=64,
    out_channels=64,
    double_blocks=19,
    single_blocks=38,
    heads=24,
    head_channels=128,
    text_channels=4096,
    pooled_channels=768,
    guidance=True,
)


class Downloads:
    """What somebody has downloaded: a transformer, a T5 and a diffusers folder."""

    def __init__(self, folder: Path, tiny: Path, plain: Path) -> None:
        self.diffusers = Path(shutil.copytree(plain, folder / "diffusers"))
        (self.diffusers / "manifest.json").unlink()
        self.transformer = Path(shutil.copy(tiny / "transformer/model.gguf", folder / "k.gguf"))
        self.t5: list[Path] = [
            Path(shutil.copy(tiny / "text_encoder_2/model.gguf", folder / "t5.gguf"))
        ]
        self.out = folder / "made/weights"

    def prepared(self, **how: Any) -> Prepared:
        return prepare_weights(self.transformer, self.t5, self.diffusers, self.out, **how)

    def refused(self, kind: type[WeightsError] = WrongWeights) -> str:
        """Insist on a refusal before anything was made."""
        with pytest.raises(kind) as caught:
            self.prepared()
        assert not self.out.parent.exists()
        return str(caught.value)

    def change(self, path: str, **changes: Any) -> None:
        config = self.diffusers / path
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny weights whose T5 is plain safetensors."""
    directory = tmp_path_factory.mktemp("plain") / "tiny"
    make_tiny_weights(directory, packed_t5=False)
    return directory


@pytest.fixture
def downloads(tmp_path: Path, tiny: Path, plain: Path) -> Downloads:
    return Downloads(tmp_path, tiny, plain)


def sharded(downloads: Downloads) -> list[Path]:
    """Replace the folder's T5 by two shards and their index, as people have it."""
    whole = downloads.diffusers / "text_encoder_2/model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    shards, places = [], {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shards.append(whole.with_name(f"model-0000{number}-of-00002.safetensors"))
        save_file({name: tensors[name] for name in part}, shards[-1], metadata={"format": "pt"})
        places |= dict.fromkeys(part, shards[-1].name)
    whole.with_name("model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": places})
    )
    return shards


# --- what is made ---------------------------------------------------------------------------------


def test_downloads_become_the_directory_that_a_worker_reads(
    downloads: Downloads, tiny: Path
) -> None:
    fractions: list[float] = []
    made = downloads.prepared(on_file=lambda name, fraction: fractions.append(fraction))
    manifest = read_manifest(downloads.out)
    assert made.manifest == manifest
    assert manifest.label == "illo-tiny-2 Q8_0"
    assert manifest.expects == read_manifest(tiny).expects
    # the same files as those of the tiny weights, so the same weights
    assert manifest.sha256 == read_manifest(tiny).sha256
    assert all(file.crc32c for file in manifest.files)
    assert {file.path: file.quantization for file in manifest.files if file.quantization} == {
        "transformer/model.gguf": "Q8_0",
        "text_encoder_2/model.gguf": "Q8_0",
    }
    check_files(downloads.out, manifest, digests=True)
    assert inspect_weights(downloads.out).problem is None
    assert [path.name for path in downloads.out.parent.iterdir()] == ["weights"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_shards_become_one_file_with_every_byte_of_theirs(
    downloads: Downloads, plain: Path
) -> None:
    downloads.t5 = sharded(downloads)
    downloads.prepared()
    joined = load_file(downloads.out / "text_encoder_2/model.safetensors")
    whole = load_file(plain / "text_encoder_2/model.safetensors")
    assert joined.keys() == whole.keys()
    for name, tensor in whole.items():
        assert joined[name].dtype == tensor.dtype
        np.testing.assert_array_equal(joined[name], tensor)
    names = {path.name for path in (downloads.out / "text_encoder_2").iterdir()}
    assert names == {"config.json", "model.safetensors"}
    assert inspect_weights(downloads.out).problem is None


@pytest.mark.parametrize("shards", [True, False])
def test_without_a_t5_the_folder_s_own_is_taken(downloads: Downloads, shards: bool) -> None:
    if shards:
        sharded(downloads)
    downloads.t5 = []
    downloads.prepared()
    assert (downloads.out / "text_encoder_2/model.safetensors").is_file()


def test_a_transformer_keeps_the_names_it_was_given(downloads: Downloads) -> None:
    write_transformer(downloads.transformer, expected_shapes(TRANSFORMER, Naming.ORIGINAL))
    made = downloads.prepared()
    assert made.manifest.label == "FLUX.1-Kontext-dev Q8_0"  # the header has no name of its own


def test_where_the_config_is_from_is_kept_and_told(downloads: Downloads) -> None:
    downloads.change("transformer/config.json", _name_or_path="somebody/kontext")
    made = downloads.prepared(label="Mia's")
    assert made.origin == "somebody/kontext"
    assert made.manifest.label == "Mia's"
    assert "somebody/kontext" in (downloads.out / "transformer/config.json").read_text()


def test_what_no_loader_needs_is_left_behind(downloads: Downloads) -> None:
    (downloads.diffusers / "README.md").write_text("about")
    (downloads.diffusers / "vae/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"x")
    (downloads.diffusers / "tokenizer/.gitattributes").write_text("x")
    downloads.prepared()
    check_files(downloads.out, read_manifest(downloads.out))
    assert not (downloads.out / "README.md").exists()
    assert not (downloads.out / "tokenizer/.gitattributes").exists()
    assert not (downloads.out / "vae/diffusion_pytorch_model.fp16.safetensors").exists()


@pytest.mark.parametrize("way", [Way.LINK, Way.COPY])
def test_files_of_a_cache_are_followed_to_where_they_lie(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    monkeypatch.setattr(placing, "SHARED_FROM", 100_000)
    monkeypatch.setattr(placing, "_reflinked", lambda source, target: False)
    blob = tmp_path / "blob"
    vae = downloads.diffusers / "vae/diffusion_pytorch_model.safetensors"
    vae.rename(blob)
    vae.symlink_to(blob)
    downloads.prepared(way=way)
    assert not (downloads.out / "vae/diffusion_pytorch_model.safetensors").is_symlink()
    check_files(downloads.out, read_manifest(downloads.out), digests=True)


@pytest.mark.parametrize(("way", "links"), [(Way.AUTO, True), (Way.LINK, True), (Way.COPY, False)])
def test_large_files_are_shared_unless_copies_are_wished(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch, way: Way, links: bool
) -> None:
    monkeypatch.setattr(placing, "SHARED_FROM", 500_000)
    monkeypatch.setattr(placing, "_reflinked", lambda source, target: False)
    made = downloads.prepared(way=way)
    model = downloads.out / "transformer/model.gguf"
    assert model.samefile(downloads.transformer) is links
    assert made.shared == (("transformer/model.gguf",) if links else ())
    size = sum(file.bytes for file in made.manifest.files)
    assert made.copied_bytes == size - (model.stat().st_size if links else 0)
    check_files(downloads.out, made.manifest, digests=True)


def test_where_nothing_can_be_shared_it_is_copied_or_refused(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(placing, "SHARED_FROM", 500_000)
    monkeypatch.setattr(placing, "_reflinked", lambda source, target: False)
    monkeypatch.setattr("os.link", other_disk)
    with pytest.raises(NoRoom, match="--copy"):
        downloads.prepared(way=Way.LINK)
    assert list(downloads.out.parent.iterdir()) == []
    assert downloads.prepared().shared == ()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "name"), [(128, "FLUX.1-Depth-dev"), (384, "FLUX.1-Fill-dev")]
)
def test_a_transformer_of_another_model_is_called_by_its_name(
    downloads: Downloads, channels: int, name: str
) -> None:
    shapes = expected_shapes(replace(TRANSFORMER, in_channels=channels), Naming.ORIGINAL)
    write_transformer(downloads.transformer, shapes)
    said = downloads.refused()
    assert name in said
    assert str(downloads.transformer) in said


def test_a_folder_of_another_model_is_called_by_its_name(downloads: Downloads) -> None:
    downloads.change("transformer/config.json", in_channels=384)
    assert "FLUX.1-Fill-dev" in downloads.refused()


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("model_index.json", {"_class_name": "FluxFillPipeline"}, "'FluxFillPipeline'"),
        ("text_encoder_2/config.json", {"d_model": 128}, "d_model is 128"),
        ("text_encoder_2/config.json", {"num_layers": 3}, "is missing"),
        ("text_encoder_2/config.json", {"feed_forward_proj": "relu"}, "'relu'"),
        ("text_encoder/config.json", {"hidden_size": 64}, "hidden_size is 64"),
        ("text_encoder/config.json", {"vocab_size": 9}, "expected (9, 32)"),
        ("text_encoder/config.json", {"num_hidden_layers": 3}, "layers.2"),
        ("vae/config.json", {"latent_channels": 4}, "latent_channels is 4"),
        ("vae/config.json", {"block_out_channels": [8, 8, 8, 16]}, "is missing"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    downloads: Downloads, path: str, changes: dict[str, Any], said: str
) -> None:
    downloads.change(path, **changes)
    assert said in downloads.refused()


@pytest.mark.parametrize(
    ("path", "removed"),
    [("vae/config.json", "shift_factor"), ("text_encoder/config.json", "hidden_size")],
)
def test_a_config_without_what_is_needed_is_no_config(
    downloads: Downloads, path: str, removed: str
) -> None:
    config = downloads.diffusers / path
    found = json.loads(config.read_text())
    del found[removed]
    config.write_text(json.dumps(found))
    assert removed in downloads.refused(WeightsDamaged)


@pytest.mark.parametrize(
    "path",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "transformer/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_file_is_named(downloads: Downloads, path: str) -> None:
    (downloads.diffusers / path).unlink()
    assert f"{downloads.diffusers / path}: not there" in downloads.refused(WeightsMissing)


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("diffusion_pytorch_model.fp16.safetensors", "a variant that no loader looks for"),
        ("diffusion_pytorch_model.bin", "pickled, which may hold code"),
    ],
)
def test_a_model_in_a_form_that_is_not_read_is_told(
    downloads: Downloads, instead: str, said: str
) -> None:
    vae = downloads.diffusers / "vae/diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name(instead))
    told = downloads.refused(WeightsMissing)
    assert instead in told
    assert said in told


def test_a_missing_shard_is_named(downloads: Downloads) -> None:
    shards = sharded(downloads)
    shards[1].unlink()
    downloads.t5 = []
    assert shards[1].name in downloads.refused(WeightsMissing)
    downloads.t5 = shards[:1]
    assert "is missing" in downloads.refused()


def test_a_shard_given_twice_is_no_encoder(downloads: Downloads) -> None:
    first, _ = sharded(downloads)
    downloads.t5 = [first, first]
    assert "too" in downloads.refused()


def a_pickle(downloads: Downloads) -> list[Path]:
    pickled = downloads.t5[0].with_suffix(".bin")
    pickled.write_bytes(b"\x80")
    return [pickled]


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        (lambda d: [d.t5[0], d.t5[0]], "not one T5"),
        (lambda d: [d.t5[0], *sharded(d)], "not one T5"),
        (a_pickle, "pickled"),
        (lambda d: [d.transformer], "general.architecture"),
    ],
)
def test_what_is_no_t5_is_refused(
    downloads: Downloads, choose: Callable[[Downloads], list[Path]], said: str
) -> None:
    downloads.t5 = choose(downloads)
    assert said in downloads.refused()


def test_numbers_of_eight_bits_are_no_plain_encoder(downloads: Downloads) -> None:
    whole = downloads.diffusers / "text_encoder_2/model.safetensors"
    save_file({name: each.astype(np.uint8) for name, each in load_file(whole).items()}, whole)
    downloads.t5 = [whole]
    assert "stored as U8" in downloads.refused()


def test_a_truncated_download_is_told(downloads: Downloads) -> None:
    vae = downloads.diffusers / "vae/diffusion_pytorch_model.safetensors"
    vae.write_bytes(vae.read_bytes()[:-1])
    assert "truncated" in downloads.refused(WeightsDamaged)


def test_a_folder_with_something_in_it_is_left_as_it_is(downloads: Downloads) -> None:
    downloads.out.mkdir(parents=True)
    (downloads.out / "note").write_text("mine")
    with pytest.raises(WrongWeights, match="holds something already"):
        downloads.prepared()
    assert [path.name for path in downloads.out.iterdir()] == ["note"]


def test_an_empty_folder_may_be_filled(downloads: Downloads) -> None:
    downloads.out.mkdir(parents=True)
    downloads.prepared()
    assert (downloads.out / "manifest.json").is_file()


def test_without_room_nothing_is_copied(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "SPARE_BYTES", 2**62)
    monkeypatch.setattr(prepare, "_place", pytest.fail)
    with pytest.raises(NoRoom, match="bytes are free"):
        downloads.prepared()
    assert list(downloads.out.parent.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_nothing_half_made_is_left(downloads: Downloads, stop: type[BaseException]) -> None:
    def interrupt(name: str, fraction: float) -> None:
        if fraction > 0.5:
            raise stop

    with pytest.raises(stop):
        downloads.prepared(on_file=interrupt)
    assert list(downloads.out.parent.iterdir()) == []


def test_what_would_be_refused_later_is_not_made(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        prepare, "inspect_weights", lambda made: Inspection(path="x", problem=f"{made}/a: bad")
    )
    with pytest.raises(WeightsDamaged, match=f"^{downloads.out}/a: bad"):
        downloads.prepared()
    assert list(downloads.out.parent.iterdir()) == []


def test_a_download_that_still_goes_on_is_refused(downloads: Downloads) -> None:
    def grow(name: str, fraction: float) -> None:
        if name == "model_index.json":
            with downloads.transformer.open("ab") as going_on:
                going_on.write(b"more")

    with pytest.raises(WeightsMissing, match="still being downloaded"):
        downloads.prepared(way=Way.COPY, on_file=grow)
    assert list(downloads.out.parent.iterdir()) == []


# --- the label ------------------------------------------------------------------------------------


def test_full_size_weights_are_called_by_the_model_and_most_of_their_bytes(
    tmp_path: Path,
) -> None:
    # only the header is there: the 12 GB behind it are a hole in the file
    infos, end = [], 0
    for name, shape in expected_shapes(FULL, Naming.ORIGINAL).items():
        packed = len(shape) == 2 and name != "img_in.weight"
        kind, size = (12, 144) if packed and shape[1] % 256 == 0 else (0, 4)
        elements = int(np.prod(shape))
        infos.append(Info(name=name, dims=shape[::-1], type=kind, offset=end))
        end += -(-(elements // 256 * size if kind else elements * size) // 32) * 32
    path = tmp_path / "full.gguf"
    path.write_bytes(gguf_bytes(infos))
    with path.open("ab") as file:
        file.truncate(file.tell() + end)
    header = read_header(path)
    assert quantization_of(header) == "Q4_K"
    assert label_for(header, FULL_SIZE) == "FLUX.1-Kontext-dev Q4_K"
