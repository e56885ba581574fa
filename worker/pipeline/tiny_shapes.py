"""The sizes of the tiny weights: each component's config, tensor names and shapes."""

from typing import Any

from worker.pipeline.weights.flux_shapes import FluxSizes, Shapes

LATENT_CHANNELS = 16  # as in the real VAE; packed in patches of 2 x 2 they make 64
VAE_CHANNELS = 8
VAE_GROUPS = 4
VAE_LEVELS = 4  # four levels make the scale factor 8, as in the real one
CLIP_WIDTH = 32
CLIP_WIDE = 64
CLIP_LENGTH = 77
T5_WIDTH = 64
T5_WIDE = 128
T5_HEADS = 4
T5_BUCKETS = 32
TEXT_LAYERS = 2

TRANSFORMER = FluxSizes(
    in_channels=64,
    out_channels=64,
    double_blocks=2,
    single_blocks=2,
    heads=2,
    head_channels=32,
    text_channels=T5_WIDTH,
    pooled_channels=CLIP_WIDTH,
    guidance=True,
)

TRANSFORMER_CONFIG: dict[str, Any] = {
    "_class_name": "FluxTransformer2DModel",
    "attention_head_dim": TRANSFORMER.head_channels,
    "axes_dims_rope": [8, 12, 12],
    "guidance_embeds": TRANSFORMER.guidance,
    "in_channels": TRANSFORMER.in_channels,
    "joint_attention_dim": TRANSFORMER.text_channels,
    "num_attention_heads": TRANSFORMER.heads,
    "num_layers": TRANSFORMER.double_blocks,
    "num_single_layers": TRANSFORMER.single_blocks,
    "out_channels": None,
    "patch_size": 1,
    "pooled_projection_dim": TRANSFORMER.pooled_channels,
}

VAE_CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [VAE_CHANNELS] * VAE_LEVELS,
    "down_block_types": ["DownEncoderBlock2D"] * VAE_LEVELS,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": VAE_GROUPS,
    "out_channels": 3,
    "sample_size": 64,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * VAE_LEVELS,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}

SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


def clip_config(words: int) -> dict[str, Any]:
    """Configure CLIP's text model for a vocabulary that ends with its two special tokens."""
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": words - 2,
        "dtype": "float32",
        "eos_token_id": words - 1,
        "hidden_act": "quick_gelu",
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": CLIP_WIDE,
        "max_position_embeddings": CLIP_LENGTH,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": TEXT_LAYERS,
        "pad_token_id": words - 1,
        "projection_dim": CLIP_WIDTH,
        "vocab_size": words,
    }


def t5_config(words: int) -> dict[str, Any]:
    """Configure T5's encoder; gated GELU is said outright, the default would be ReLU."""
    return {
        "architectures": ["T5EncoderModel"],
        "d_ff": T5_WIDE,
        "d_kv": T5_WIDTH // T5_HEADS,
        "d_model": T5_WIDTH,
        "dtype": "float32",
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "model_type": "t5",
        "num_heads": T5_HEADS,
        "num_layers": TEXT_LAYERS,
        "relative_attention_num_buckets": T5_BUCKETS,
        "use_cache": False,
        "vocab_size": words,
    }


def clip_shapes(words: int) -> Shapes:
    """List the tensors of CLIP's text model."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (words, CLIP_WIDTH),
        "text_model.embeddings.position_embedding.weight": (CLIP_LENGTH, CLIP_WIDTH),
    }
    for index in range(TEXT_LAYERS):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _layer(f"{layer}.self_attn.{name}", (CLIP_WIDTH, CLIP_WIDTH))
        shapes |= _layer(f"{layer}.mlp.fc1", (CLIP_WIDE, CLIP_WIDTH))
        shapes |= _layer(f"{layer}.mlp.fc2", (CLIP_WIDTH, CLIP_WIDE))
        shapes |= _layer(f"{layer}.layer_norm1", (CLIP_WIDTH,))
        shapes |= _layer(f"{layer}.layer_norm2", (CLIP_WIDTH,))
    return shapes | _layer("text_model.final_layer_norm", (CLIP_WIDTH,))


def t5_shapes(words: int) -> Shapes:
    """List the tensors of T5's encoder; none has a bias."""
    square, wide = (T5_WIDTH, T5_WIDTH), (T5_WIDE, T5_WIDTH)
    shapes: Shapes = {"shared.weight": (words, T5_WIDTH)}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes[bias] = (T5_BUCKETS, T5_HEADS)
    for index in range(TEXT_LAYERS):
        block = f"encoder.block.{index}"
        for name in "qkvo":
            shapes[f"{block}.layer.0.SelfAttention.{name}.weight"] = square
        for name in ("wi_0", "wi_1"):
            shapes[f"{block}.layer.1.DenseReluDense.{name}.weight"] = wide
        shapes[f"{block}.layer.1.DenseReluDense.wo.weight"] = wide[::-1]
        for number in (0, 1):
            shapes[f"{block}.layer.{number}.layer_norm.weight"] = (T5_WIDTH,)
    return shapes | {"encoder.final_layer_norm.weight": (T5_WIDTH,)}


def vae_shapes() -> Shapes:
    """List the tensors of the VAE: an encoder and a decoder of the same build."""
    inside = (VAE_CHANNELS, VAE_CHANNELS, 3, 3)
    shapes: Shapes = {}
    sides = (
        # a decoder's level has one residual block more than an encoder's
        ("encoder", 3, 2 * LATENT_CHANNELS, "down_blocks", "downsamplers", 1),
        ("decoder", LATENT_CHANNELS, 3, "up_blocks", "upsamplers", 2),
    )
    for side, taken, given, levels, samplers, residuals in sides:
        shapes |= _layer(f"{side}.conv_in", (VAE_CHANNELS, taken, 3, 3))
        for level in range(VAE_LEVELS):
            for number in range(residuals):
                shapes |= _residual(f"{side}.{levels}.{level}.resnets.{number}")
            if level < VAE_LEVELS - 1:
                shapes |= _layer(f"{side}.{levels}.{level}.{samplers}.0.conv", inside)
        for number in (0, 1):
            shapes |= _residual(f"{side}.mid_block.resnets.{number}")
        attention = f"{side}.mid_block.attentions.0"
        shapes |= _layer(f"{attention}.group_norm", (VAE_CHANNELS,))
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= _layer(f"{attention}.{name}", (VAE_CHANNELS, VAE_CHANNELS))
        shapes |= _layer(f"{side}.conv_norm_out", (VAE_CHANNELS,))
        shapes |= _layer(f"{side}.conv_out", (given, VAE_CHANNELS, 3, 3))
    return shapes


def _layer(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _residual(name: str) -> Shapes:
    shapes: Shapes = {}
    for number in (1, 2):
        shapes |= _layer(f"{name}.norm{number}", (VAE_CHANNELS,))
        shapes |= _layer(f"{name}.conv{number}", (VAE_CHANNELS, VAE_CHANNELS, 3, 3))
    return shapes
