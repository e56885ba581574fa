"""Whose rows the rows of a file are, under both namings and whatever the sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.flux_files import (
    FULL,
    SIZES,
    config_of,
    converter,
    forward,
)
from tests.unit.gguf_files import write_transformer
from worker.pipeline.weights.flux_names import Rows, diffusers_rows, rows_in
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming, Shapes, expected_shapes
from worker.pipeline.weights.gguf_header import read_header

sizes_of_any_model = st.builds(
    FluxSizes,
    in_channels=st.just(64),
    out_channels=st.sampled_from([64, 128]),
    double_blocks=st.integers(1, 12),
    single_blocks=st.integers(1, 12),
    heads=st.integers(1, 30),
    head_channels=st.integers(1, 130),
    text_channels=st.integers(1, 5000),
    pooled_channels=st.integers(1, 1000),
    guidance=st.booleans(),
)


@given(sizes=sizes_of_any_model, naming=st.sampled_from(list(Naming)))
def test_every_tensor_of_diffusers_is_made_of_rows_of_its_shape(
    sizes: FluxSizes, naming: Naming
) -> None:
    shapes, expected = expected_shapes(sizes, naming), expected_shapes(sizes, Naming.DIFFUSERS)
    found = diffusers_rows(shapes)
    # a mapping has each name once
    assert found.keys() == expected.keys()
    for name, rows in found.items():
        assert (rows.stop - rows.start, *shapes[rows.tensor][1:]) == expected[name]


@given(sizes=sizes_of_any_model, naming=st.sampled_from(list(Naming)))
def test_every_row_in_the_file_is_used_once(sizes: FluxSizes, naming: Naming) -> None:
    shapes = expected_shapes(sizes, naming)
    ends = dict.fromkeys(shapes, 0)
    for rows in sorted(diffusers_rows(shapes).values(), key=lambda rows: rows.start):
        assert rows.start == ends[rows.tensor]
        ends[rows.tensor] = rows.stop
    assert ends == {name: shape[0] for name, shape in shapes.items()}


@pytest.mark.parametrize("sizes", [FULL, SIZES], ids=["full size", "small"])
def test_the_rows_are_those_that_diffusers_takes(sizes: FluxSizes) -> None:
    shapes = expected_shapes(sizes, Naming.ORIGINAL)
    numbered, count = {}, 0
    for name, (height, *_) in shapes.items():
        # each row says who it is; the converter cuts and joins rows, and never looks into them
        numbered[name] = torch.arange(count, count + height, dtype=torch.int32)
        count += height
    expected = converter(sizes.inner)(dict(numbered))
    found = {}
    for name, rows in diffusers_rows(shapes).items():
        part = numbered[rows.tensor][rows.start : rows.stop]
        found[name] = torch.cat(part.chunk(2)[::-1]) if rows.swapped else part
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("naming", Naming)
def test_only_the_last_norm_of_the_original_names_changes_its_halves(naming: Naming) -> None:
    swapped = {
        n for n, rows in diffusers_rows(expected_shapes(FULL, naming)).items() if rows.swapped
    }
    last = {"norm_out.linear.weight", "norm_out.linear.bias"}
    assert swapped == (last if naming is Naming.ORIGINAL else set())


def test_a_fused_tensor_is_told_apart_by_its_rows() -> None:
    rows = diffusers_rows(expected_shapes(FULL, Naming.ORIGINAL))
    block, name = "single_transformer_blocks.37", "single_blocks.37.linear1.weight"
    cuts = {"attn.to_q": 0, "attn.to_k": 3072, "attn.to_v": 6144, "proj_mlp": 9216}
    ends = [*list(cuts.values())[1:], 21504]
    for (part, start), stop in zip(cuts.items(), ends, strict=True):
        assert rows[f"{block}.{part}.weight"] == Rows(tensor=name, start=start, stop=stop)


@pytest.mark.parametrize("guidance", [True, False])
def test_the_order_is_the_one_in_which_a_forward_comes_to_them(guidance: bool) -> None:
    sizes = replace(SIZES, guidance=guidance)
    model = FluxTransformer2DModel.from_config(config_of(sizes)).eval()
    came: list[str] = []
    for path, module in model.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        module.register_forward_pre_hook(lambda *_, own=own: came.extend(own))
    forward(model)
    assert list(diffusers_rows(expected_shapes(sizes, Naming.DIFFUSERS))) == came
    assert list(diffusers_rows(expected_shapes(sizes, Naming.ORIGINAL))) == came


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("naming", Naming)
def test_rows_name_the_tensors_as_the_file_does(
    tmp_path: Path, naming: Naming, prefix: str
) -> None:
    shapes: Shapes = expected_shapes(SIZES, naming)
    in_the_file = {prefix + name: shapes[name] for name in sorted(shapes)}
    write_transformer(tmp_path / "model.gguf", in_the_file)
    header = read_header(tmp_path / "model.gguf")
    assert {rows.tensor for rows in rows_in(header).values()} == set(in_the_file)
    plain = diffusers_rows(shapes)
    assert {n: replace(r, tensor=prefix + r.tensor) for n, r in plain.items()} == rows_in(header)
