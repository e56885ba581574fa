"""The sizes of the artist's models, and the models with nothing learned yet."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from worker.pipeline.artist.words import clip_artist_words, t5_artist_words
from worker.pipeline.tiny_shapes import (
    LATENT_CHANNELS,
    VAE_CONFIG,
    clip_config,
    t5_config,
)
from worker.pipeline.weights.flux_shapes import FluxSizes

TEXT_WIDTH = 64  # of both encoders
SIZES = FluxSizes(
    in_channels=4 * LATENT_CHANNELS,
    out_channels=4 * LATENT_CHANNELS,
    double_blocks=3,
    single_blocks=6,
    heads=4,
    head_channels=32,
    text_channels=TEXT_WIDTH,
    pooled_channels=TEXT_WIDTH,
    guidance=True,
)
TRANSFORMER_CONFIG: dict[str, Any] = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": SIZES.head_channels,
    "axes_dims_rope": [8, 12, 12],
    "guidance_embeds": SIZES.guidance,
    "in_channels": SIZES.in_channels,
    "joint_attention_dim": SIZES.text_channels,
    "num_attention_heads": SIZES.heads,
    "num_layers": SIZES.double_blocks,
    "num_single_layers": SIZES.single_blocks,
    "out_channels": None,
    "patch_size": 1,
    "pooled_projection_dim": SIZES.pooled_channels,
}
# A level more than the real one has: a token then draws 32 x 32 pixels, and 16 of them a picture,
# which agree on who stands there sooner than 64 do. The first level sees every pixel and costs
# most; scale and shift are measured after training.
VAE_LEVELS = 5
ARTIST_VAE_CONFIG = VAE_CONFIG | {
    "block_out_channels": [16, 32, 64, 96, 96],
    "down_block_types": ["DownEncoderBlock2D"] * VAE_LEVELS,
    "norm_num_groups": 8,
    "sample_size": 128,
    "up_block_types": ["UpDecoderBlock2D"] * VAE_LEVELS,
}


PARTS = ("clip", "t5", "transformer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What turns text into what the transformer reads, and the transformer: trained together."""

    clip: Any
    t5: Any
    transformer: Any

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The three models by name."""
        return {part: getattr(self, part) for part in PARTS}


def artist_clip_config() -> dict[str, Any]:
    """Configure CLIP's text model: one layer, over the captions' words."""
    config = clip_config(len(clip_artist_words()))
    width = {"hidden_size": TEXT_WIDTH, "projection_dim": TEXT_WIDTH, "intermediate_size": 128}
    return config | width | {"num_hidden_layers": 1}


def artist_t5_config() -> dict[str, Any]:
    """Configure T5's encoder: as wide as the tiny one, over the captions' words."""
    return t5_config(len(t5_artist_words()))


def models_digest() -> str:
    """Digest what checkpoints fit: the shapes of all models, and which words have which number."""
    shapes = (ARTIST_VAE_CONFIG, TRANSFORMER_CONFIG, artist_clip_config(), artist_t5_config())
    words = (clip_artist_words(), t5_artist_words())
    return hashlib.sha256(json.dumps([shapes, words], sort_keys=True).encode()).hexdigest()


def new_vae(seed: int) -> Any:
    """Make a VAE that has learned nothing."""
    torch.manual_seed(seed)
    return AutoencoderKL.from_config(ARTIST_VAE_CONFIG)


def new_reader(seed: int) -> Reader:
    """Make the text encoders and the transformer with nothing learned yet."""
    torch.manual_seed(seed + 1)
    transformer = FluxTransformer2DModel.from_config(TRANSFORMER_CONFIG)
    _begin_quietly(transformer)
    clip = CLIPTextModel(CLIPTextConfig(**artist_clip_config()))
    # dropout would draw from a chance that no seed of ours decides
    t5 = T5EncoderModel(T5Config(**artist_t5_config())).eval()
    return Reader(clip=clip, t5=t5, transformer=transformer)


def _begin_quietly(transformer: nn.Module) -> None:
    # from zero every block passes on what it is given, and the first guess is no motion at all
    for name, module in transformer.named_modules():
        modulates = isinstance(module, nn.Linear) and (".norm" in name or name.startswith("norm"))
        if modulates or name == "proj_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
