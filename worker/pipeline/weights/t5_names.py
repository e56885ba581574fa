"""The tensors of T5's encoder and their shapes, under llama.cpp's names and transformers'."""

from dataclasses import dataclass

from worker.pipeline.weights.flux_shapes import Shapes

EMBEDDING = "token_embd.weight"
POSITIONS = "enc.blk.0.attn_rel_b.weight"  # the first block has it for all

_ATTENTION = "layer.0.SelfAttention"
_FEED_FORWARD = "layer.1.DenseReluDense"
# A block's parts; the gate is the half of the feed-forward that goes through the GELU.
_BLOCK = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": f"{_ATTENTION}.q",
    "attn_k": f"{_ATTENTION}.k",
    "attn_v": f"{_ATTENTION}.v",
    "attn_o": f"{_ATTENTION}.o",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": f"{_FEED_FORWARD}.wi_0",
    "ffn_up": f"{_FEED_FORWARD}.wi_1",
    "ffn_down": f"{_FEED_FORWARD}.wo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Sizes:
    """Everything that decides the shapes of a T5 encoder's tensors."""

    words: int
    width: int
    wide: int
    heads: int
    head_width: int
    layers: int
    buckets: int

    @property
    def inner(self) -> int:
        """The width of all heads together; T5 need not make it that of the residual stream."""
        return self.heads * self.head_width


def transformers_names(layers: int) -> dict[str, str]:
    """Map each of llama.cpp's names to the name that transformers gives the same tensor."""
    names = {
        EMBEDDING: "shared.weight",
        POSITIONS: f"encoder.block.0.{_ATTENTION}.relative_attention_bias.weight",
    }
    for index in range(layers):
        for ours, theirs in _BLOCK.items():
            names[f"enc.blk.{index}.{ours}.weight"] = f"encoder.block.{index}.{theirs}.weight"
    return names | {"enc.output_norm.weight": "encoder.final_layer_norm.weight"}


def encoder_shapes(sizes: T5Sizes) -> Shapes:
    """List every tensor of an encoder of these sizes by llama.cpp's name; shapes are rows first."""
    parts: Shapes = {
        "attn_norm": (sizes.width,),
        "attn_q": (sizes.inner, sizes.width),
        "attn_k": (sizes.inner, sizes.width),
        "attn_v": (sizes.inner, sizes.width),
        "attn_o": (sizes.width, sizes.inner),
        "ffn_norm": (sizes.width,),
        "ffn_gate": (sizes.wide, sizes.width),
        "ffn_up": (sizes.wide, sizes.width),
        "ffn_down": (sizes.width, sizes.wide),
    }
    shapes: Shapes = {
        EMBEDDING: (sizes.words, sizes.width),
        POSITIONS: (sizes.buckets, sizes.heads),
    }
    for index in range(sizes.layers):
        shapes |= {f"enc.blk.{index}.{part}.weight": shape for part, shape in parts.items()}
    return shapes | {"enc.output_norm.weight": (sizes.width,)}
