"""The tensors of a FLUX transformer and their shapes, under both of the names in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Shapes = dict[str, tuple[int, ...]]

TIME_CHANNELS = 256  # width of the sinusoidal time embedding, a constant of the architecture
MLP_RATIO = 4


class Naming(StrEnum):
    """Who named the tensors: diffusers, or Black Forest Labs in the files people download."""

    DIFFUSERS = "diffusers"
    ORIGINAL = "original"

    @property
    def image_input(self) -> str:
        """The tensor that takes the latents in; its columns tell Kontext from Depth and Fill."""
        return "x_embedder.weight" if self is Naming.DIFFUSERS else "img_in.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxSizes:
    """Everything that decides the shapes of a FLUX transformer's tensors."""

    in_channels: int
    out_channels: int
    double_blocks: int
    single_blocks: int
    heads: int
    head_channels: int
    text_channels: int
    pooled_channels: int
    guidance: bool

    @property
    def inner(self) -> int:
        """The width of the residual stream."""
        return self.heads * self.head_channels


def naming_of(names: Mapping[str, object]) -> Naming | None:
    """Tell the naming from a file's tensor names; None if it is no FLUX transformer."""
    for naming in Naming:
        if naming.image_input in names:
            return naming
    return None


def expected_shapes(sizes: FluxSizes, naming: Naming) -> Shapes:
    """List every tensor that a transformer of these sizes has; shapes are rows first."""
    return _diffusers(sizes) if naming is Naming.DIFFUSERS else _original(sizes)


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _diffusers(sizes: FluxSizes) -> Shapes:
    inner, wide = sizes.inner, sizes.inner * MLP_RATIO
    shapes = _linear("x_embedder", inner, sizes.in_channels)
    shapes |= _linear("context_embedder", inner, sizes.text_channels)
    embedded = {"timestep": TIME_CHANNELS, "text": sizes.pooled_channels}
    if sizes.guidance:
        embedded["guidance"] = TIME_CHANNELS
    for name, columns in embedded.items():
        shapes |= _linear(f"time_text_embed.{name}_embedder.linear_1", inner, columns)
        shapes |= _linear(f"time_text_embed.{name}_embedder.linear_2", inner, inner)
    for index in range(sizes.double_blocks):
        block = f"transformer_blocks.{index}"
        for suffix in ("", "_context"):
            shapes |= _linear(f"{block}.norm1{suffix}.linear", 6 * inner, inner)
            shapes |= _linear(f"{block}.ff{suffix}.net.0.proj", wide, inner)
            shapes |= _linear(f"{block}.ff{suffix}.net.2", inner, wide)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            shapes |= _linear(f"{block}.attn.{name}", inner, inner)
        shapes |= _linear(f"{block}.attn.to_out.0", inner, inner)
        shapes |= _linear(f"{block}.attn.to_add_out", inner, inner)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            shapes[f"{block}.attn.{name}.weight"] = (sizes.head_channels,)
    for index in range(sizes.single_blocks):
        block = f"single_transformer_blocks.{index}"
        shapes |= _linear(f"{block}.norm.linear", 3 * inner, inner)
        shapes |= _linear(f"{block}.proj_mlp", wide, inner)
        shapes |= _linear(f"{block}.proj_out", inner, inner + wide)
        for name in ("to_q", "to_k", "to_v"):
            shapes |= _linear(f"{block}.attn.{name}", inner, inner)
        for name in ("norm_q", "norm_k"):
            shapes[f"{block}.attn.{name}.weight"] = (sizes.head_channels,)
    shapes |= _linear("norm_out.linear", 2 * inner, inner)
    return shapes | _linear("proj_out", sizes.out_channels, inner)


def _original(sizes: FluxSizes) -> Shapes:
    inner, wide = sizes.inner, sizes.inner * MLP_RATIO
    shapes = _linear("img_in", inner, sizes.in_channels)
    shapes |= _linear("txt_in", inner, sizes.text_channels)
    embedded = {"time_in": TIME_CHANNELS, "vector_in": sizes.pooled_channels}
    if sizes.guidance:
        embedded["guidance_in"] = TIME_CHANNELS
    for name, columns in embedded.items():
        shapes |= _linear(f"{name}.in_layer", inner, columns)
        shapes |= _linear(f"{name}.out_layer", inner, inner)
    for index in range(sizes.double_blocks):
        for stream in ("img", "txt"):
            block = f"double_blocks.{index}.{stream}"
            shapes |= _linear(f"{block}_mod.lin", 6 * inner, inner)
            shapes |= _linear(f"{block}_attn.qkv", 3 * inner, inner)
            shapes |= _linear(f"{block}_attn.proj", inner, inner)
            shapes |= _linear(f"{block}_mlp.0", wide, inner)
            shapes |= _linear(f"{block}_mlp.2", inner, wide)
            for name in ("query_norm", "key_norm"):
                shapes[f"{block}_attn.norm.{name}.scale"] = (sizes.head_channels,)
    for index in range(sizes.single_blocks):
        block = f"single_blocks.{index}"
        shapes |= _linear(f"{block}.modulation.lin", 3 * inner, inner)
        shapes |= _linear(f"{block}.linear1", 3 * inner + wide, inner)
        shapes |= _linear(f"{block}.linear2", inner, inner + wide)
        for name in ("query_norm", "key_norm"):
            shapes[f"{block}.norm.{name}.scale"] = (sizes.head_channels,)
    shapes |= _linear("final_layer.adaLN_modulation.1", 2 * inner, inner)
    return shapes | _linear("final_layer.linear", sizes.out_channels, inner)
