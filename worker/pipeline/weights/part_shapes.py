"""Every tensor of CLIP's text model and of the VAE, by the fields of their configs."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from worker.pipeline.weights.flux_shapes import Shapes

SIDE = 3  # of a convolution


def clip_shapes(fields: Mapping[str, Any]) -> Shapes:
    """List the tensors of CLIP's text model, by the names that its files have."""
    width, wide = fields["hidden_size"], fields["intermediate_size"]
    embeddings = "text_model.embeddings"
    shapes: Shapes = {
        f"{embeddings}.token_embedding.weight": (fields["vocab_size"], width),
        f"{embeddings}.position_embedding.weight": (fields["max_position_embeddings"], width),
    }
    for index in range(fields["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _biased(f"{layer}.self_attn.{name}", (width, width))
        shapes |= _biased(f"{layer}.mlp.fc1", (wide, width))
        shapes |= _biased(f"{layer}.mlp.fc2", (width, wide))
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= _biased(f"{layer}.{name}", (width,))
    return shapes | _biased("text_model.final_layer_norm", (width,))


def vae_shapes(fields: Mapping[str, Any]) -> Shapes:
    """List the tensors of the VAE: an encoder, and a decoder of the same widths the other way."""
    widths, latents = fields["block_out_channels"], fields["latent_channels"]
    deep, attention = fields["layers_per_block"], fields["mid_block_add_attention"]
    shapes = _convolution("encoder.conv_in", fields["in_channels"], widths[0])
    shapes |= _levels("encoder.down_blocks", widths, deep, "downsamplers")
    shapes |= _middle("encoder", widths[-1], attention=attention)
    shapes |= _end("encoder", widths[-1], 2 * latents)
    shapes |= _convolution("decoder.conv_in", latents, widths[-1])
    shapes |= _middle("decoder", widths[-1], attention=attention)
    # a decoder's level has one residual block more than an encoder's
    shapes |= _levels("decoder.up_blocks", widths[::-1], deep + 1, "upsamplers")
    return shapes | _end("decoder", widths[0], fields["out_channels"])


def _levels(stem: str, widths: list[int], residuals: int, samplers: str) -> Shapes:
    shapes: Shapes = {}
    for level, (before, width) in enumerate(pairwise([widths[0], *widths])):
        for number in range(residuals):
            taken = width if number else before
            shapes |= _residual(f"{stem}.{level}.resnets.{number}", taken, width)
        if level < len(widths) - 1:
            shapes |= _convolution(f"{stem}.{level}.{samplers}.0.conv", width, width)
    return shapes


def _middle(side: str, width: int, *, attention: bool) -> Shapes:
    shapes: Shapes = {}
    for number in (0, 1):
        shapes |= _residual(f"{side}.mid_block.resnets.{number}", width, width)
    if attention:
        stem = f"{side}.mid_block.attentions.0"
        shapes |= _biased(f"{stem}.group_norm", (width,))
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= _biased(f"{stem}.{name}", (width, width))
    return shapes


def _end(side: str, width: int, given: int) -> Shapes:
    shapes = _biased(f"{side}.conv_norm_out", (width,))
    return shapes | _convolution(f"{side}.conv_out", width, given)


def _residual(name: str, taken: int, given: int) -> Shapes:
    shapes = _biased(f"{name}.norm1", (taken,)) | _convolution(f"{name}.conv1", taken, given)
    shapes |= _biased(f"{name}.norm2", (given,)) | _convolution(f"{name}.conv2", given, given)
    if taken != given:
        shapes |= _biased(f"{name}.conv_shortcut", (given, taken, 1, 1))
    return shapes


def _convolution(name: str, taken: int, given: int) -> Shapes:
    return _biased(name, (given, taken, SIDE, SIDE))


def _biased(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}
