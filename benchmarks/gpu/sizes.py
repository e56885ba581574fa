"""The models' sizes: Kontext's own, and small ones with which these scripts are tested."""

from dataclasses import dataclass, replace
from typing import Any

from worker.pipeline import tiny_shapes
from worker.pipeline.peaks import FULL_SIZE
from worker.pipeline.tiny_tokenizers import clip_words, t5_words
from worker.pipeline.weights.flux_shapes import FluxSizes, Naming
from worker.pipeline.weights.t5_names import T5Sizes

CONVERTED_WIDTH = 3072  # the only one at which diffusers understands the original names


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Everything that decides the shapes of one set of weights; the configs are diffusers'."""

    name: str
    flux: FluxSizes
    rope_axes: tuple[int, int, int]
    t5: T5Sizes
    clip: dict[str, Any]
    vae: dict[str, Any]

    @property
    def naming(self) -> Naming:
        """As the files people download have it, where diffusers' loader can follow."""
        wide = self.flux.inner == CONVERTED_WIDTH
        return Naming.ORIGINAL if wide else Naming.DIFFUSERS

    def with_depths(self, *, blocks: tuple[int, int], t5_blocks: int) -> "Sizes":
        """Take the same widths over other numbers of blocks."""
        flux = replace(self.flux, double_blocks=blocks[0], single_blocks=blocks[1])
        return replace(self, flux=flux, t5=replace(self.t5, layers=t5_blocks))

    @property
    def transformer_config(self) -> dict[str, Any]:
        """The transformer's config.json."""
        return tiny_shapes.TRANSFORMER_CONFIG | {
            "attention_head_dim": self.flux.head_channels,
            "axes_dims_rope": list(self.rope_axes),
            "guidance_embeds": self.flux.guidance,
            "joint_attention_dim": self.flux.text_channels,
            "num_attention_heads": self.flux.heads,
            "num_layers": self.flux.double_blocks,
            "num_single_layers": self.flux.single_blocks,
            "pooled_projection_dim": self.flux.pooled_channels,
        }

    @property
    def t5_config(self) -> dict[str, Any]:
        """T5's config.json."""
        return tiny_shapes.t5_config(self.t5.words) | {
            "d_ff": self.t5.wide,
            "d_kv": self.t5.head_width,
            "d_model": self.t5.width,
            "num_heads": self.t5.heads,
            "num_layers": self.t5.layers,
            "relative_attention_num_buckets": self.t5.buckets,
        }


FULL = Sizes(
    name="full",
    flux=FULL_SIZE.flux,
    rope_axes=(16, 56, 56),
    t5=FULL_SIZE.t5,
    # the tokenizer has few words, and its ends are among them
    clip=tiny_shapes.clip_config(len(clip_words()))
    | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    vae=tiny_shapes.VAE_CONFIG
    | {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": 1024,
    },
)

SMALL = Sizes(
    name="small",
    flux=tiny_shapes.TRANSFORMER,
    rope_axes=(8, 12, 12),
    t5=T5Sizes(
        words=len(t5_words()),
        width=tiny_shapes.T5_WIDTH,
        wide=tiny_shapes.T5_WIDE,
        heads=tiny_shapes.T5_HEADS,
        head_width=tiny_shapes.T5_WIDTH // tiny_shapes.T5_HEADS,
        layers=tiny_shapes.TEXT_LAYERS,
        buckets=tiny_shapes.T5_BUCKETS,
    ),
    clip=tiny_shapes.clip_config(len(clip_words())),
    vae=tiny_shapes.VAE_CONFIG,
)
