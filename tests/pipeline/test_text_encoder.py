"""The packed T5 encoder: the numbers of the unpacked one in the memory of its file."""

import gc
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import T5EncoderModel
from transformers.activations import NewGELUActivation

from tests.pipeline.conftest import THREADS
from tests.pipeline.encoders import (
    EVERY_TYPE,
    SIZES,
    Packed,
    Type,
    an_encoder,
    encode,
    load,
    load_file,
    load_over,
    mixed_types,
    packed,
    some_words,
    unpacked,
    write_packed,
)
from tests.pipeline.test_kontext import a_scene, difference, draw
from worker.pipeline import packed as packed_module
from worker.pipeline.kontext import Kontext
from worker.pipeline.packed import PackedEmbedding, PackedLinear, pack_rows, unpack
from worker.pipeline.start import begin
from worker.pipeline.tiny import make_tiny_weights
from worker.pipeline.weights.gguf_types import GgufType, type_of
from worker.pipeline.weights.t5_names import EMBEDDING, POSITIONS
from worker.pipeline.weights.transformer_check import DRAWABLE

pytestmark = pytest.mark.slow

# Of the largest number: the compute type's own step, times a few sums in another order.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2e-2}

# Loads 70 MB of packed matrices in a fresh interpreter and tells its peaks, in MB.
MEASURE = """
import json, sys
from pathlib import Path
import torch
from tests.pipeline.encoders import load_file
def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024
torch.set_num_threads(1)
small = Path(sys.argv[1])
ids = torch.ones(1, 8, dtype=torch.long)
with torch.no_grad():
    load_file(small / "text_encoder_2/model.gguf")(ids)
    before = peak()
    large = Path(sys.argv[2])
    model = load_file(large / "text_encoder_2/model.gguf")
    loaded = peak()
    model(ids)
print(json.dumps({"loading": loaded - before, "encoding": peak() - before}))
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(THREADS)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a part of the largest number."""
    off = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    return float(off)


def stored_as(type_: Type) -> GgufType:
    found = type_of(type_.value)
    assert found is not None
    return found


def raw_bytes(tensor: Packed) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(tensor.raw).view(np.int8))


def packed_layers(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (PackedLinear, PackedEmbedding)
    return {name: each for name, each in model.named_modules() if isinstance(each, kinds)}


@pytest.mark.parametrize("type_", EVERY_TYPE, ids=lambda each: each.name)
@pytest.mark.parametrize("slice_elements", [256, 3 * 512, 2**20])
def test_every_type_is_unpacked_to_the_bit(
    type_: Type, slice_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "SLICE_ELEMENTS", slice_elements)
    tensor = packed((17, 512), type_, np.random.default_rng(1))
    rows = pack_rows(raw_bytes(tensor), tensor.shape)
    expected = torch.from_numpy(tensor.numbers)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found = unpack(rows, stored_as(type_), dtype)
        assert torch.equal(found, expected.to(dtype))


def test_every_type_that_may_be_drawn_with_is_tried_here() -> None:
    assert {each.name for each in EVERY_TYPE} == DRAWABLE


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("type_", EVERY_TYPE, ids=lambda each: each.name)
def test_it_encodes_as_the_unpacked_encoder_does(
    tmp_path: Path, type_: Type, dtype: torch.dtype
) -> None:
    tensors = an_encoder(lambda name: type_)
    found = encode(load(tmp_path, tensors, dtype), some_words())
    expected = encode(unpacked(tmp_path, tensors, dtype), some_words())
    assert (found.dtype, found.shape) == (dtype, (1, 512, SIZES.width))
    error = relative_error(found, expected)
    exact = encode(unpacked(tmp_path / "exact", tensors, torch.float32), some_words())
    print(
        f"{type_.name} {dtype}: {error:.1e} from the unpacked encoder, "
        f"{relative_error(found, exact):.1e} from it in float32"
    )
    assert error <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_file_may_mix_types(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = an_encoder(mixed_types)
    assert len({tensor.type for tensor in tensors.values()}) == 5
    found = encode(load(tmp_path, tensors, dtype), some_words())
    expected = encode(unpacked(tmp_path, tensors, dtype), some_words())
    assert relative_error(found, expected) <= TOLERANCES[dtype]


@pytest.mark.parametrize("type_", [Type.F16, Type.BF16, Type.Q8_0], ids=lambda each: each.name)
def test_position_bias_and_norms_may_be_stored_otherwise(tmp_path: Path, type_: Type) -> None:
    sizes = replace(SIZES, heads=32, head_width=8)
    tensors = an_encoder(sizes=sizes)
    for name in (POSITIONS, "enc.output_norm.weight"):
        tensors[name] = packed(tensors[name].shape, type_, np.random.default_rng(2))
    file = write_packed(tmp_path, tensors, sizes=sizes)
    model = load_file(file)
    attention = model.encoder.block[0].layer[0].SelfAttention
    for name, found in (
        (POSITIONS, attention.relative_attention_bias.weight),
        ("enc.output_norm.weight", model.encoder.final_layer_norm.weight),
    ):
        assert torch.equal(found, torch.from_numpy(tensors[name].numbers))


def test_heads_may_be_narrower_than_the_stream(tmp_path: Path) -> None:
    sizes = replace(SIZES, heads=4)
    file = write_packed(tmp_path, an_encoder(sizes=sizes), sizes=sizes)
    model = load_file(file)
    assert model.encoder.block[0].layer[0].SelfAttention.q.weight.shape == (128, 256 // 32 * 34)
    assert torch.isfinite(encode(model, some_words())).all()


def test_every_matrix_stays_packed_and_is_the_files(tmp_path: Path) -> None:
    tensors = an_encoder(mixed_types)
    model = load(tmp_path, tensors)
    layers = packed_layers(model)
    matrices = {name: each for name, each in tensors.items() if each.raw.dtype == np.uint8}
    # the embedding has one object under two names; named_modules tells it once
    assert len(layers) == len(matrices) == 1 + 7 * SIZES.layers
    held = sorted(layer.weight.numpy().tobytes() for layer in layers.values())
    assert held == sorted(np.ascontiguousarray(each.raw).tobytes() for each in matrices.values())
    assert all(layer.weight.dtype is torch.int8 for layer in layers.values())


def test_the_memory_of_its_parameters_is_that_of_the_file(tmp_path: Path) -> None:
    tensors = an_encoder()
    model = load(tmp_path, tensors)
    expected = sum(tensor.raw.nbytes for tensor in tensors.values())
    assert sum(each.nbytes for each in model.parameters()) == expected
    encode(model, some_words())
    assert sum(each.nbytes for each in model.parameters()) == expected


def test_the_whole_encoder_is_never_unpacked(tmp_path: Path) -> None:
    sizes = replace(SIZES, width=1024, wide=4096, heads=16, head_width=64, layers=4)
    write_packed(tmp_path / "small", an_encoder())
    large = write_packed(tmp_path / "large", an_encoder(sizes=sizes), sizes=sizes)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    peaks = json.loads(ran.stdout)
    megabytes = large.stat().st_size / 2**20
    print(f"{megabytes:.0f} MB in the file; in memory at the most: {peaks}")
    assert megabytes > 60
    assert megabytes * 0.8 < peaks["loading"] < megabytes * 1.2
    # a copy in float32 would be almost four times the file, and come on top of it
    assert peaks["encoding"] < megabytes * 2.5


def test_both_names_of_the_embedding_are_one_object(tmp_path: Path) -> None:
    model = load(tmp_path, an_encoder())
    assert isinstance(model.shared, PackedEmbedding)
    assert model.shared is model.encoder.embed_tokens is model.get_input_embeddings()
    assert model.to(torch.bfloat16).shared is model.encoder.embed_tokens


def test_only_the_words_of_the_prompt_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = an_encoder()
    model, counted = load(tmp_path, tensors), []

    def count(rows: torch.Tensor, *options: object) -> torch.Tensor:
        counted.append(rows.shape[0])
        return unpack(rows, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(packed_module, "unpack", count)
    found = model.shared(torch.tensor([[5, 299, 5], [0, 1, 2]]))
    assert counted == [6]
    numbers = torch.from_numpy(tensors[EMBEDDING].numbers)
    assert torch.equal(found, numbers[torch.tensor([[5, 299, 5], [0, 1, 2]])])


def test_a_word_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    model = load(tmp_path, an_encoder())
    with pytest.raises(IndexError):
        encode(model, torch.tensor([[SIZES.words]]))


def test_the_feed_forward_is_a_gated_gelu(tmp_path: Path) -> None:
    model = load(tmp_path, an_encoder())
    for block in model.encoder.block:
        assert isinstance(block.layer[1].DenseReluDense.act, NewGELUActivation)


def test_the_feed_forward_does_not_truncate_what_it_computes(tmp_path: Path) -> None:
    model = load(tmp_path, an_encoder())
    given: list[torch.Tensor] = []
    feed_forward = model.encoder.block[0].layer[1].DenseReluDense
    feed_forward.wo.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    encode(model, some_words())
    assert given[0].dtype is torch.float32
    assert 0 < given[0].abs().median() < 1


def test_moving_it_to_another_type_leaves_the_packed_bytes_alone(tmp_path: Path) -> None:
    tensors = an_encoder(mixed_types)
    model = load(tmp_path, tensors)
    before = {name: each.weight.clone() for name, each in packed_layers(model).items()}
    moved = model.to(torch.bfloat16).to("cpu")
    assert moved.dtype is torch.bfloat16
    for name, layer in packed_layers(moved).items():
        assert torch.equal(layer.weight, before[name])
        assert layer.weight.dtype is torch.int8
    loaded = load(tmp_path / "again", tensors, torch.bfloat16)
    assert torch.equal(encode(moved, some_words()), encode(loaded, some_words()))


def test_moving_it_there_and_back_changes_nothing(tmp_path: Path) -> None:
    tensors = an_encoder()
    for name, tensor in tensors.items():
        if tensor.type is Type.F32:  # so that bfloat16 holds them without loss
            rounded = torch.from_numpy(tensor.numbers).bfloat16().float().numpy()
            tensors[name] = replace(tensor, raw=rounded)
    model = load(tmp_path, tensors)
    before = encode(model, some_words())
    moved = model.to(torch.float16).to(torch.bfloat16).to(torch.float32)
    assert relative_error(encode(moved, some_words()), before) < 1e-3


def test_packed_bytes_do_not_outlive_their_layers(tmp_path: Path) -> None:
    file = write_packed(tmp_path, an_encoder())
    octets = np.fromfile(file, dtype=np.uint8)
    buffer = weakref.ref(octets)
    model = load_over(file, octets)
    del octets
    assert buffer() is not None
    # as an offload does: packed layers move, the small rest stays
    for layer in packed_layers(model).values():
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    gc.collect()
    assert buffer() is None


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_same_prompt_twice_is_the_same_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = an_encoder()
    model = load(tmp_path, tensors, dtype)
    assert not any(each.training for each in model.modules())
    assert not any(each.requires_grad for each in model.parameters())
    first = encode(model, some_words())
    encode(model, some_words(batch=2, length=20))
    assert torch.equal(encode(model, some_words()), first)
    assert torch.equal(encode(load(tmp_path / "2", tensors, dtype), some_words()), first)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_prompts_in_a_batch_are_encoded_as_they_are_alone(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model, ids = load(tmp_path, an_encoder(mixed_types), dtype), some_words(batch=2)
    together = encode(model, ids)
    alone = torch.cat([encode(model, ids[:1]), encode(model, ids[1:])])
    error = relative_error(together, alone)
    print(f"{dtype}: {error:.1e} between a batch of two and each alone")
    assert error <= TOLERANCES[dtype]


def test_the_stock_pipeline_encodes_with_it(kontext: Kontext) -> None:
    pipeline = kontext._pipeline
    assert isinstance(pipeline.text_encoder_2, T5EncoderModel)
    assert packed_layers(pipeline.text_encoder_2)
    with torch.no_grad():
        found = pipeline._get_t5_prompt_embeds(["a fox", "a hen"], max_sequence_length=512)
        ids = pipeline.tokenizer_2(
            ["a fox", "a hen"], padding="max_length", max_length=512, return_tensors="pt"
        ).input_ids
        assert torch.equal(found, pipeline.text_encoder_2(ids)[0])
    width = pipeline.text_encoder_2.config.d_model
    assert (found.shape, found.dtype) == ((2, 512, width), torch.float32)


def test_the_files_in_the_directory_decide_how_it_is_loaded(
    kontext: Kontext, tmp_path: Path
) -> None:
    make_tiny_weights(tmp_path / "plain", packed_t5=False)
    plain = Kontext(begin(tmp_path / "plain", device="cpu"), threads=THREADS)
    assert not packed_layers(plain._pipeline.text_encoder_2)
    assert type(plain._pipeline.text_encoder_2) is type(kontext._pipeline.text_encoder_2)
    # Q8_0 is close to what it was packed from, and the picture shows that it is not the same
    [one], [other] = (draw(each, a_scene(steps=4)).images for each in (plain, kontext))
    assert 0 < difference(one, other) < 10


def test_tensors_of_a_decoder_are_passed_over(tmp_path: Path) -> None:
    tensors = an_encoder()
    chance = np.random.default_rng(4)
    decoder = {
        name: packed(shape, Type.Q8_0, chance)
        for name, shape in (
            ("dec.blk.0.attn_q.weight", (256, 256)),
            ("dec.output_norm.weight", (256,)),
            ("output.weight", (300, 256)),
        )
    }
    with_decoder = load(tmp_path / "with", decoder | tensors)
    without = load(tmp_path / "without", tensors)
    assert torch.equal(encode(with_decoder, some_words()), encode(without, some_words()))
    held = [sum(each.nbytes for each in model.parameters()) for model in (with_decoder, without)]
    assert held[0] == held[1]
