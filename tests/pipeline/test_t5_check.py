"""Which T5 encoders are let through to the libraries, and what is said of the others."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import T5Config, T5EncoderModel

from shared.errors import WeightsDamaged, WeightsError, WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role, describe_file, read_manifest, write_manifest
from tests.pipeline.encoders import (
    SIZES,
    Packed,
    Type,
    an_encoder,
    config_of,
    mixed_types,
    packed,
    write_packed,
)
from tests.unit.gguf_files import Info, gguf_bytes
from worker.pipeline.kontext import Kontext
from worker.pipeline.start import begin
from worker.pipeline.weights import assemble as assemble_module
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.inspect import inspect_weights
from worker.pipeline.weights.t5_check import (
    check_packed_encoder,
    find_packed_encoder,
    fitting_encoder_sizes,
    read_encoder_sizes,
    sizes_in,
)
from worker.pipeline.weights.t5_names import (
    EMBEDDING,
    POSITIONS,
    T5Sizes,
    encoder_shapes,
    transformers_names,
)

FULL = T5Sizes(words=32128, width=4096, wide=10240, heads=64, head_width=64, layers=24, buckets=32)
CONFIG = Path("text_encoder_2/config.json")
MODEL = Path("text_encoder_2/model.gguf")

Tensors = dict[str, Packed]


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny weights that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


def described_anew(directory: Path, *names: str) -> Manifest:
    """Make the manifest vouch for what it listed, and for these files of T5 as well."""
    old = read_manifest(directory)
    files = [(file.path, file.role) for file in old.files if (directory / file.path).exists()]
    files += [(f"text_encoder_2/{name}", Role.TEXT_ENCODER_2) for name in names]
    manifest = replace(old, files=tuple(describe_file(directory, *file) for file in files))
    write_manifest(directory, manifest)
    return manifest


def reconfigured(directory: Path, **changes: Any) -> None:
    """Change T5's config; None takes a key out."""
    config = json.loads((directory / CONFIG).read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (directory / CONFIG).write_text(json.dumps(kept))


def refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsError:
    """Load, and insist that it is refused before a model is made of any tensor."""

    def built(*_: object) -> None:
        raise AssertionError("torch was reached")

    monkeypatch.setattr(assemble_module, "_build", built)
    with pytest.raises(WeightsError) as caught:
        Kontext(begin(directory, device="cpu"))
    return caught.value


def test_the_names_are_those_that_gguf_knows() -> None:
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, FULL.layers)
    for ours, theirs in transformers_names(FULL.layers).items():
        assert known.get_name(theirs.removesuffix(".weight")) == ours.removesuffix(".weight")


def test_names_and_shapes_are_those_of_transformers() -> None:
    model = T5EncoderModel(T5Config(**config_of(SIZES)))
    found = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    names = transformers_names(SIZES.layers)
    assert {names[name]: shape for name, shape in encoder_shapes(SIZES).items()} == found


def test_the_full_size_has_as_many_tensors_and_numbers_as_t5_xxl() -> None:
    shapes = encoder_shapes(FULL)
    assert shapes.keys() == transformers_names(FULL.layers).keys()
    assert len(shapes) == 219
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 4_762_310_656


@pytest.mark.parametrize("architecture", ["t5", "t5encoder"])
def test_a_whole_encoder_is_let_through(tmp_path: Path, architecture: str) -> None:
    file = write_packed(tmp_path, an_encoder(mixed_types), architecture=architecture)
    check_packed_encoder(read_header(file), SIZES)
    assert read_encoder_sizes(tmp_path / CONFIG) == SIZES
    assert sizes_in(read_header(file)) == SIZES


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_shape(name: str, *shape: int) -> Callable[[Tensors], object]:
    tensor = packed(shape, Type.Q8_0, np.random.default_rng(0))
    return lambda tensors: tensors.update({name: tensor})


SPOILT = [
    (without(EMBEDDING), "'token_embd.weight'"),
    (without("enc.blk.1.ffn_up.weight"), "'enc.blk.1.ffn_up.weight' of shape (512, 256) is miss"),
    (without(POSITIONS), "'enc.blk.0.attn_rel_b.weight'"),
    (without("enc.output_norm.weight"), "'enc.output_norm.weight' of shape (256,) is missing"),
    (with_shape("enc.blk.1.attn_k.weight", 128, 256), "(128, 256), expected (256, 256)"),
    (with_shape("enc.blk.0.ffn_down.weight", 512, 256), "(512, 256), expected (256, 512)"),
    (with_shape("enc.blk.0.attn_norm.weight", 1, 256), "(1, 256), expected (256,)"),
    # of UMT5, whose every block has a bias of its own
    (with_shape("enc.blk.1.attn_rel_b.weight", 32, 32), "'enc.blk.1.attn_rel_b.weight' of shape"),
    (with_shape("lora.weight", 32, 32), "'lora.weight' of shape (32, 32) is one too many"),
    (with_shape("encoder.block.0.weight", 32, 32), "not those that llama.cpp gives them"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=[said for _, said in SPOILT])
def test_every_tensor_of_every_block_is_checked(
    tmp_path: Path, spoil: Callable[[Tensors], object], said: str
) -> None:
    tensors = an_encoder()
    spoil(tensors)
    file = write_packed(tmp_path, tensors)
    with pytest.raises(WrongWeights) as caught:
        check_packed_encoder(read_header(file), SIZES)
    assert said in str(caught.value)
    assert "model.gguf: " in str(caught.value)
    assert "T5 encoder of FLUX.1-Kontext-dev: put that there instead" in str(caught.value)
    # a file without a config beside it is seen through just as well
    found = inspect_weights(file)
    assert said in str(found.problem)
    assert found.gguf[0].verdict.startswith("this is a T5 text encoder")


def test_a_decoder_beside_it_is_no_fault(tmp_path: Path) -> None:
    decoder = packed((256, 256), Type.Q4_0, np.random.default_rng(0))
    beside = dict.fromkeys(("dec.blk.0.attn_q.weight", "output.weight"), decoder)
    file = write_packed(tmp_path, an_encoder() | beside, architecture="t5")
    check_packed_encoder(read_header(file), SIZES)
    assert inspect_weights(file).problem is None


def test_a_type_that_nothing_unpacks_is_refused(tmp_path: Path) -> None:
    tensors = an_encoder()
    name = "enc.blk.0.attn_q.weight"
    blocks = np.zeros((256, 66), dtype=np.uint8)
    tensors[name] = Packed(raw=blocks, type=Type.IQ2_XXS, shape=(256, 256))
    file = write_packed(tmp_path, tensors)
    with pytest.raises(WrongWeights, match=r"attn_q\.weight' is stored as IQ2_XXS"):
        check_packed_encoder(read_header(file), SIZES)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    file = write_packed(tmp_path, an_encoder(), architecture="llama")
    with pytest.raises(WrongWeights, match=r"general\.architecture is 'llama', not 't5encoder'"):
        check_packed_encoder(read_header(file), SIZES)


@pytest.mark.parametrize("dims", [(32,), (32, 2, 1)])
def test_an_embedding_that_is_no_matrix_is_refused(tmp_path: Path, dims: tuple[int, ...]) -> None:
    infos = [Info(name=EMBEDDING, dims=dims), Info(name="enc.blk.0.x", dims=(32,), offset=256)]
    (tmp_path / "t5.gguf").write_bytes(gguf_bytes(infos, payload=512))
    assert "expected a matrix" in str(inspect_weights(tmp_path / "t5.gguf").problem)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"feed_forward_proj": None}, "feed_forward_proj is None, expected 'gated-gelu'"),
    ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu', expected 'gated-gelu'"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
    ({"model_type": "umt5"}, "is of 'umt5', not 't5'"),
    ({"d_model": 4096}, "d_model is 4096, but the transformer takes text of 64 channels"),
    ({"d_ff": "wide"}, "not a T5's config"),
    ({"num_heads": None}, "not a T5's config (it has no num_heads)"),
    ({"vocab_size": 999}, "64), expected (999, 64)"),
    ({"num_layers": 3}, "'enc.blk.2.attn_norm.weight' of shape (64,) is missing (as are 8)"),
    ({"num_layers": 1}, "'enc.blk.1.attn_norm.weight' of shape (64,) is one too many"),
]


@pytest.mark.parametrize(("changes", "said"), CONFIGS, ids=[said for _, said in CONFIGS])
def test_a_config_that_says_otherwise_is_refused(
    weights: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    reconfigured(weights, **changes)
    described_anew(weights)
    assert said in str(inspect_weights(weights).problem)
    assert said in str(refused(weights, monkeypatch))


def test_a_missing_config_is_told_as_such(weights: Path) -> None:
    (weights / CONFIG).unlink()
    with pytest.raises(WeightsMissing, match=r"text_encoder_2/config\.json: not there"):
        fitting_encoder_sizes(weights)


@pytest.mark.parametrize("content", ["", "[]", "\0", "3"])
def test_a_broken_config_is_told_as_such(weights: Path, content: str) -> None:
    (weights / CONFIG).write_text(content)
    with pytest.raises(WeightsDamaged, match="not a T5's config"):
        fitting_encoder_sizes(weights)


def test_safetensors_with_relu_are_refused_too(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights / MODEL).rename(weights / MODEL.with_suffix(".safetensors"))
    reconfigured(weights, feed_forward_proj="gated-relu")
    described_anew(weights, "model.safetensors")
    assert "feed_forward_proj is 'gated-relu'" in str(refused(weights, monkeypatch))


def test_a_damaged_header_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (weights / MODEL).read_bytes()
    (weights / MODEL).write_bytes(content[: len(content) // 2])
    described_anew(weights)
    assert "past the end of the file" in str(refused(weights, monkeypatch))


@pytest.mark.parametrize("second", ["other.gguf", "model.safetensors"])
def test_two_encoders_leave_a_choice_that_is_not_made(
    weights: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    shutil.copy(weights / MODEL, weights / MODEL.parent / second)
    described_anew(weights, second)
    error = refused(weights, monkeypatch)
    assert isinstance(error, WrongWeights)
    for part in ("text_encoder_2/model.gguf", second, "keep the one that is to be used"):
        assert part in str(error)
    assert "keep the one" in str(inspect_weights(weights).problem)


def test_no_encoder_is_told_as_such(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (weights / MODEL).unlink()
    described_anew(weights)
    error = refused(weights, monkeypatch)
    assert isinstance(error, WeightsMissing)
    assert "neither a .gguf nor a .safetensors file of text_encoder_2" in str(error)


def test_safetensors_may_come_in_several_files(weights: Path) -> None:
    (weights / MODEL).rename(weights / "text_encoder_2/model-00001-of-00002.safetensors")
    (weights / "text_encoder_2/model-00002-of-00002.safetensors").write_bytes(b"")
    (weights / "text_encoder_2/model.safetensors.index.json").write_bytes(b"{}")
    names = [path.name for path in (weights / "text_encoder_2").iterdir() if "model" in path.name]
    manifest = described_anew(weights, *names)
    assert find_packed_encoder(weights, manifest) is None
