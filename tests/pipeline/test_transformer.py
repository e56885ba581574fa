"""The transformer over the bytes of a file: the numbers of diffusers' own loading, not copied."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFParameter

from tests.pipeline.conftest import THREADS
from tests.pipeline.encoders import EVERY_TYPE, Packed, Type
from tests.pipeline.flux_files import (
    SIZES,
    Raw,
    a_transformer,
    forward,
    load,
    load_with_diffusers,
    opened,
    write_transformer,
)
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.transformer import place_transformer
from worker.pipeline.weights.flux_names import rows_in
from worker.pipeline.weights.flux_shapes import Naming
from worker.pipeline.weights.transformer_check import DRAWABLE

pytestmark = pytest.mark.slow

DTYPES = (torch.float32, torch.bfloat16)
PREFIX = "model.diffusion_model."


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(THREADS)


def mixed_types(name: str) -> Type:
    """Choose as the files people download do: better types where they matter more."""
    if name.endswith(("qkv.weight", "linear1.weight", "to_v.weight")):
        return Type.Q5_K
    if name.endswith(("img_in.weight", "x_embedder.weight", "txt_in.weight")):
        return Type.BF16
    return Type.F16 if "time" in name else Type.Q4_K


def differing(found: torch.nn.Module, expected: torch.nn.Module) -> list[str]:
    """Name the parameters that are not the same in every respect."""
    ours, theirs = dict(found.named_parameters()), dict(expected.named_parameters())
    assert list(ours) == list(theirs)
    return [name for name in ours if not alike(ours[name], theirs[name])]


def alike(one: Any, other: Any) -> bool:
    kinds = [
        (type(each), each.dtype, each.shape, each.requires_grad, getattr(each, "quant_type", None))
        for each in (one, other)
    ]
    return kinds[0] == kinds[1] and torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("naming", Naming)
@pytest.mark.parametrize("type_", EVERY_TYPE, ids=lambda each: each.name)
def test_every_type_is_loaded_and_computes_as_with_diffusers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    type_: Type,
    naming: Naming,
    dtype: torch.dtype,
) -> None:
    file = write_transformer(tmp_path, a_transformer(naming, lambda name: type_))
    found = load(tmp_path, file, dtype)
    expected = load_with_diffusers(tmp_path, file, monkeypatch, dtype)
    assert differing(found, expected) == []
    drawn = forward(found, dtype)
    assert drawn.isfinite().all()
    assert torch.equal(drawn, forward(expected, dtype))


def test_every_type_that_may_be_drawn_with_is_tried_here() -> None:
    assert {each.name for each in EVERY_TYPE} == DRAWABLE


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("naming", Naming)
def test_a_file_may_mix_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naming: Naming, dtype: torch.dtype
) -> None:
    tensors = a_transformer(naming, mixed_types)
    assert len({tensor.type for tensor in tensors.values()}) == 5
    file = write_transformer(tmp_path, tensors)
    found = load(tmp_path, file, dtype)
    expected = load_with_diffusers(tmp_path, file, monkeypatch, dtype)
    assert differing(found, expected) == []
    assert torch.equal(forward(found, dtype), forward(expected, dtype))
    assert (found.dtype, found.training) == (expected.dtype, False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("naming", Naming)
def test_packed_weights_are_views_of_the_bytes_given(
    tmp_path: Path, naming: Naming, dtype: torch.dtype
) -> None:
    header, tensors = opened(write_transformer(tmp_path, a_transformer(naming, mixed_types)))
    model = place_transformer(tmp_path, header, tensors, dtype=dtype)
    copied = []
    for name, rows in rows_in(header).items():
        weight, stored = model.get_parameter(name), header.tensors[rows.tensor]
        if not isinstance(weight, GGUFParameter):
            continue
        place = tensors[rows.tensor].data_ptr() + rows.start * stored.bytes // stored.shape[0]
        assert weight.nbytes == (rows.stop - rows.start) * stored.bytes // stored.shape[0]
        copied += [name] if weight.data_ptr() != place else []
    # the one whose halves change places, and only under the original names
    assert copied == (["norm_out.linear.weight"] if naming is Naming.ORIGINAL else [])


def test_what_is_plain_is_a_view_as_well_where_it_is_computed_in(tmp_path: Path) -> None:
    header, tensors = opened(write_transformer(tmp_path, a_transformer(Naming.DIFFUSERS)))
    model = place_transformer(tmp_path, header, tensors, dtype=torch.float32)
    places = {name: raw.data_ptr() for name, raw in tensors.items()}
    assert {name: each.data_ptr() for name, each in model.named_parameters()} == places


@pytest.mark.slow
def test_the_bytes_live_as_long_as_the_model_and_no_longer(tmp_path: Path) -> None:
    header, tensors = opened(write_transformer(tmp_path, a_transformer(Naming.ORIGINAL)))
    arena = weakref.ref(next(iter(tensors.values())).untyped_storage())
    model = place_transformer(tmp_path, header, tensors, dtype=torch.float32)
    tensors.clear()
    gc.collect()
    assert arena() is not None
    assert forward(model).isfinite().all()
    del model
    gc.collect()
    assert arena() is None


def test_bytes_that_change_later_change_the_model(tmp_path: Path) -> None:
    # so a loader may give out its views first and fill them afterwards
    header, tensors = opened(write_transformer(tmp_path, a_transformer(Naming.DIFFUSERS)))
    filled = {name: raw.clone() for name, raw in tensors.items()}
    for raw in tensors.values():
        raw[:] = 0
    model = place_transformer(tmp_path, header, tensors, dtype=torch.float32)
    assert not forward(model).any()
    for name, raw in tensors.items():
        raw[:] = filled[name]
    expected = place_transformer(tmp_path, header, filled, dtype=torch.float32)
    assert torch.equal(forward(model), forward(expected))


def test_the_model_is_built_where_its_bytes_lie(tmp_path: Path) -> None:
    header, tensors = opened(write_transformer(tmp_path, a_transformer(Naming.ORIGINAL)))
    elsewhere = {name: raw.to("meta") for name, raw in tensors.items()}
    model = place_transformer(tmp_path, header, elsewhere, dtype=torch.bfloat16)
    assert {each.device.type for each in model.parameters()} == {"meta"}


@pytest.mark.parametrize("naming", Naming)
def test_a_prefix_before_every_name_changes_nothing(tmp_path: Path, naming: Naming) -> None:
    tensors = a_transformer(naming)
    without = load(tmp_path / "1", write_transformer(tmp_path / "1", tensors))
    prefixed = load(tmp_path / "2", write_transformer(tmp_path / "2", tensors, prefix=PREFIX))
    assert differing(prefixed, without) == []


@pytest.mark.slow
@pytest.mark.parametrize("naming", Naming)
@pytest.mark.parametrize("stored_as", [Type.BF16, Type.F16], ids=lambda each: each.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_may_be_stored_in_sixteen_bits(
    tmp_path: Path, naming: Naming, stored_as: Type, dtype: torch.dtype
) -> None:
    tensors = a_transformer(naming, vectors=stored_as)
    widened = {
        name: Packed(raw=each.numbers, type=Type.F32, shape=each.shape)
        if len(each.shape) == 1
        else each
        for name, each in tensors.items()
    }
    found = load(tmp_path / "1", write_transformer(tmp_path / "1", tensors), dtype)
    expected = load(tmp_path / "2", write_transformer(tmp_path / "2", widened), dtype)
    assert differing(found, expected) == []
    assert torch.equal(forward(found, dtype), forward(expected, dtype))


def test_it_cannot_be_cast_by_mistake(tmp_path: Path) -> None:
    # bytes taken for numbers would be cast, and drawn with
    model = load(tmp_path, write_transformer(tmp_path, a_transformer(Naming.ORIGINAL)))
    with pytest.raises(ValueError, match="Casting a quantized model"):
        model.to(torch.bfloat16)


def without_one(tensors: Raw) -> None:
    del tensors["double_blocks.1.txt_attn.qkv.weight"]


def with_a_short_one(tensors: Raw) -> None:
    name = "double_blocks.1.txt_attn.qkv.weight"
    tensors[name] = tensors[name][:-34]


@pytest.mark.parametrize("spoil", [without_one, with_a_short_one])
def test_bytes_that_are_not_all_there_make_no_model(
    tmp_path: Path, spoil: Callable[[Raw], None]
) -> None:
    header, tensors = opened(write_transformer(tmp_path, a_transformer(Naming.ORIGINAL)))
    spoil(tensors)
    with pytest.raises((KeyError, RuntimeError)):
        place_transformer(tmp_path, header, tensors, dtype=torch.float32)


def test_tiny_weights_are_the_same_under_either_naming(tiny: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    make_tiny_weights(original, naming=Naming.ORIGINAL)
    found = load(original, original / "transformer/model.gguf")
    expected = load(tiny, tiny / "transformer/model.gguf")
    assert differing(found, expected) == []
    assert torch.equal(forward(found), forward(expected))


def test_the_sizes_here_have_whole_blocks_of_every_type() -> None:
    assert SIZES.inner % 256 == SIZES.text_channels % 256 == SIZES.pooled_channels % 256 == 0
