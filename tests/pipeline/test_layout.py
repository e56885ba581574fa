"""Where tensors lie in the arenas: a pure rule."""

from types import MappingProxyType

import pytest

from shared.manifest import Role
from worker.pipeline.weights.gguf_header import GgufHeader, GgufTensor
from worker.pipeline.weights.gguf_types import type_of
from worker.pipeline.weights.layout import ALIGNMENT, ORDER, OpenedFile, lay_out
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.safetensors_header import SafetensorsHeader, StoredTensor


def packed(role: Role, **tensors: tuple[int, int]) -> OpenedFile:
    """A GGUF file with tensors at these places, of so many blocks of 34 bytes."""
    type_ = type_of(8)
    assert type_
    header = GgufHeader(
        path="model.gguf",
        version=3,
        alignment=32,
        metadata={},
        tensors=MappingProxyType(
            {
                name: GgufTensor(
                    name=name, shape=(32 * blocks,), type=type_, offset=offset, bytes=34 * blocks
                )
                for name, (offset, blocks) in tensors.items()
            }
        ),
    )
    return OpenedFile(role=role, header=header)


def plain(role: Role, **tensors: tuple[int, int]) -> OpenedFile:
    stored = {
        name: StoredTensor(type="U8", shape=(stop - start,), start=start, stop=stop)
        for name, (start, stop) in tensors.items()
    }
    header = SafetensorsHeader(path="model.safetensors", notes={}, tensors=stored)
    return OpenedFile(role=role, header=header)


def test_tensors_are_aligned_and_follow_each_other_in_the_order_of_the_file() -> None:
    layout = lay_out([packed(Role.TRANSFORMER, late=(4096, 1), early=(1024, 3))])
    places = layout.tensors[Role.TRANSFORMER]
    assert (places["early"].at, places["early"].bytes) == (0, 102)
    assert (places["late"].at, places["late"].bytes) == (128, 34)
    assert layout.spans == ((Span(1024, 1126, 0), Span(4096, 4130, 128)),)
    assert layout.arena_bytes == {Role.TRANSFORMER: 162}


def test_files_of_one_model_share_its_arena_and_models_share_nothing() -> None:
    layout = lay_out(
        [
            plain(Role.VAE, only=(10, 20)),
            plain(Role.TEXT_ENCODER_2, first=(8, 108)),
            plain(Role.TEXT_ENCODER_2, second=(8, 9)),
        ]
    )
    assert layout.arena_bytes == {Role.VAE: 10, Role.TEXT_ENCODER_2: 129}
    assert layout.tensors[Role.TEXT_ENCODER_2]["second"].at == 128
    assert layout.tensors[Role.VAE]["only"].at == 0


@pytest.mark.parametrize("name", ["dec.blk.0.attn_q.weight", "output.weight"])
def test_a_decoder_has_no_place(name: str) -> None:
    layout = lay_out([packed(Role.TEXT_ENCODER_2, **{name: (0, 1), "token_embd.weight": (64, 1)})])
    assert list(layout.tensors[Role.TEXT_ENCODER_2]) == ["token_embd.weight"]


def test_every_place_is_aligned_and_nobody_elses() -> None:
    files = [packed(Role.TRANSFORMER, **{f"t{n}": (n * 4096, n) for n in range(1, 40)})]
    ends = 0
    for slot in sorted(lay_out(files).tensors[Role.TRANSFORMER].values(), key=lambda s: s.at):
        assert slot.at % ALIGNMENT == 0
        assert slot.at >= ends
        ends = slot.at + slot.bytes


def test_the_transformer_comes_last() -> None:
    assert ORDER[-1] is Role.TRANSFORMER
