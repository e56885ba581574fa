"""Which rows of a file's tensors each tensor of diffusers' FLUX transformer is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from worker.pipeline.weights.flux_shapes import MLP_RATIO, Naming, naming_of
from worker.pipeline.weights.gguf_header import GgufHeader
from worker.pipeline.weights.transformer_check import unprefixed

# Diffusers' names and the original ones, in the order in which a forward comes to them.
_FIRST = {
    "x_embedder": "img_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "context_embedder": "txt_in",
}
_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_q": "img_attn.qkv",
    "attn.to_k": "img_attn.qkv",
    "attn.to_v": "img_attn.qkv",
    "attn.add_q_proj": "txt_attn.qkv",
    "attn.add_k_proj": "txt_attn.qkv",
    "attn.add_v_proj": "txt_attn.qkv",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_SINGLE = {
    "norm.linear": "modulation.lin",
    "proj_mlp": "linear1",
    "attn.to_q": "linear1",
    "attn.to_k": "linear1",
    "attn.to_v": "linear1",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
_LAST = {"norm_out.linear": "final_layer.adaLN_modulation.1", "proj_out": "final_layer.linear"}

# What lies one below the other in an original tensor, counted in widths of the model: how many
# there are in all, and which of them are whose.
_STACKED = {"qkv": 3, "linear1": 3 + MLP_RATIO}
_SHARES = {
    **dict.fromkeys(("to_q", "add_q_proj"), (0, 1)),
    **dict.fromkeys(("to_k", "add_k_proj"), (1, 2)),
    **dict.fromkeys(("to_v", "add_v_proj"), (2, 3)),
    "proj_mlp": (3, 3 + MLP_RATIO),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of a tensor in the file; `swapped` says that their halves change places."""

    tensor: str
    start: int
    stop: int
    swapped: bool = False


def diffusers_rows(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Rows]:
    """Map each of diffusers' names to the rows that it is, in the order of the forward.

    Takes all shapes of a whole transformer, under either naming and without a prefix.
    """
    naming = naming_of(shapes)
    found = {}
    for theirs, original in _layers(shapes):
        for kind in ("weight", "bias"):
            name = f"{theirs}.{kind}"
            if naming is Naming.ORIGINAL:
                rows = _original_rows(theirs, original, kind, shapes)
            else:
                rows = _whole(name, shapes)
            if rows is not None:
                found[name] = rows
    return found


def rows_in(header: GgufHeader) -> dict[str, Rows]:
    """Map diffusers' names to rows of a file that has passed `check_transformer`.

    The tensors are called as the file calls them, with its prefix if it has one.
    """
    tensors = unprefixed(header)
    found = diffusers_rows({name: tensor.shape for name, tensor in tensors.items()})
    return {name: replace(rows, tensor=tensors[rows.tensor].name) for name, rows in found.items()}


def _layers(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield from _FIRST.items()
    for index in range(_blocks(names, "transformer_blocks.", "double_blocks.")):
        for theirs, original in _DOUBLE.items():
            yield f"transformer_blocks.{index}.{theirs}", f"double_blocks.{index}.{original}"
    for index in range(_blocks(names, "single_transformer_blocks.", "single_blocks.")):
        for theirs, original in _SINGLE.items():
            yield f"single_transformer_blocks.{index}.{theirs}", f"single_blocks.{index}.{original}"
    yield from _LAST.items()


def _blocks(names: Iterable[str], *stems: str) -> int:
    return len({name.split(".")[1] for name in names if name.startswith(stems)})


def _whole(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Rows | None:
    # norms have no bias, and a model without guidance has no layers for it
    return Rows(tensor=name, start=0, stop=shapes[name][0]) if name in shapes else None


def _original_rows(
    theirs: str, original: str, kind: str, shapes: Mapping[str, tuple[int, ...]]
) -> Rows | None:
    if original.endswith("_norm"):
        return _whole(f"{original}.scale", shapes) if kind == "weight" else None
    rows = _whole(f"{original}.{kind}", shapes)
    if rows is None:
        return None
    if original == _LAST["norm_out.linear"]:
        # shift above scale; diffusers has them the other way round
        return replace(rows, swapped=True)
    widths = _STACKED.get(original.rpartition(".")[2])
    if widths is None:
        return rows
    first, last = _SHARES[theirs.rpartition(".")[2]]
    width = rows.stop // widths
    return replace(rows, start=first * width, stop=last * width)
