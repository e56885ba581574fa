"""What the configs of the models and the scheduler have to say, so that illo can draw with them."""

from typing import Any

from worker.pipeline.weights.fields import (
    MOST_WIDE,
    Field,
    flag,
    number,
    only,
    read_fields,
    several,
    whole,
)

# With four levels, as FLUX has, a latent stands for 8 x 8 pixels: so memory is reckoned, and with
# a level more for more than is used.
VAE_LEVELS = (4, 5)
MOST_DEEP = 64  # residual blocks of a level; FLUX has two
MOST_LAYERS = 512  # CLIP has twelve

# What the transformer has learned: other schedules draw noise, or nothing that was trained.
SCHEDULER = {
    "_class_name": only("FlowMatchEulerDiscreteScheduler"),
    "num_train_timesteps": only(1000, default=1000),
    "shift": number(0.01, 100, default=1.0),
    "use_dynamic_shifting": only(True),
    "base_shift": number(0, 16, default=0.5),
    "max_shift": number(0, 16, default=1.15),
    "base_image_seq_len": whole(default=256),
    "max_image_seq_len": whole(default=4096),
    "invert_sigmas": only(False, default=False),
    "shift_terminal": only(None, default=None),
    "use_karras_sigmas": only(False, default=False),
    "use_exponential_sigmas": only(False, default=False),
    "use_beta_sigmas": only(False, default=False),
    "time_shift_type": only("exponential", default="exponential"),
    "stochastic_sampling": only(False, default=False),
}

VAE = {
    "_class_name": only("AutoencoderKL"),
    "in_channels": only(3),
    "out_channels": only(3),
    "latent_channels": whole(),
    "block_out_channels": several(whole(), *VAE_LEVELS),
    "down_block_types": several(only("DownEncoderBlock2D"), *VAE_LEVELS),
    "up_block_types": several(only("UpDecoderBlock2D"), *VAE_LEVELS),
    "layers_per_block": whole(1, MOST_DEEP),
    "mid_block_add_attention": flag(default=True),
    "act_fn": only("silu", "swish", default="silu"),
    "norm_num_groups": whole(default=32),
    "sample_size": whole(default=32),
    "scaling_factor": number(1e-6, 1e6),
    "shift_factor": number(-1e6, 1e6),
    "force_upcast": flag(default=True),
    "use_quant_conv": only(False),
    "use_post_quant_conv": only(False),
}

CLIP = {
    "model_type": only("clip_text_model"),
    "vocab_size": whole(),
    "hidden_size": whole(),
    "intermediate_size": whole(),
    "num_hidden_layers": whole(1, MOST_LAYERS),
    "num_attention_heads": whole(),
    "max_position_embeddings": whole(),
    "hidden_act": only("quick_gelu", "gelu", default="quick_gelu"),
    "layer_norm_eps": number(1e-12, 1e-2, default=1e-5),
    # 2 is what old files say, for the highest number of a prompt
    "eos_token_id": whole(0, MOST_WIDE, default=49407),
}

T5 = {
    "vocab_size": whole(),
    "d_model": whole(),
    "d_ff": whole(),
    "d_kv": whole(),
    "num_heads": whole(),
    "num_layers": whole(1, MOST_LAYERS),
    "relative_attention_num_buckets": whole(),
    "relative_attention_max_distance": whole(default=128),
    "layer_norm_epsilon": number(1e-12, 1e-2, default=1e-6),
}

# Beside the sizes, which the tensors' shapes tell as well.
TRANSFORMER = {
    "patch_size": only(1, default=1),
    "guidance_embeds": flag(),
    "axes_dims_rope": several(whole(2), 3, default=[16, 56, 56]),
}


def scheduler_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Read what the scheduler is made of; raises ValueError if it is another, or another model's.

    The class's name is not among it.
    """
    fields = _read(config, SCHEDULER)
    if fields["base_image_seq_len"] >= fields["max_image_seq_len"]:
        raise ValueError(
            f"base_image_seq_len is {fields['base_image_seq_len']}, expected less than "
            f"max_image_seq_len, {fields['max_image_seq_len']}"
        )
    return fields


def vae_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Read what the VAE is made of; raises ValueError if that is no VAE of FLUX."""
    fields = _read(config, VAE)
    levels = len(fields["block_out_channels"])
    for name in ("down_block_types", "up_block_types"):
        if len(fields[name]) != levels:
            raise ValueError(f"{name} has {len(fields[name])}, expected one per level: {levels}")
    groups = fields["norm_num_groups"]
    for width in fields["block_out_channels"]:
        if width % groups:
            raise ValueError(
                f"norm_num_groups is {groups}, expected a divisor of the {width} channels of "
                "block_out_channels"
            )
    return fields


def clip_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Read what CLIP's text model is made of; raises ValueError if it is none."""
    fields = _read(config, CLIP)
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if width % heads:
        raise ValueError(
            f"num_attention_heads is {heads}, expected a divisor of hidden_size, {width}"
        )
    return fields


def t5_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Read what T5's encoder is made of; raises ValueError if it is none."""
    fields = read_fields(config, T5)
    exact = fields["relative_attention_num_buckets"] // 4  # distances with a bucket of their own
    farthest = fields["relative_attention_max_distance"]
    if not 0 < exact < farthest:
        raise ValueError(
            f"relative_attention_max_distance is {farthest}, expected more than a quarter of "
            f"relative_attention_num_buckets, {fields['relative_attention_num_buckets']}"
        )
    return fields


def check_axes(config: dict[str, Any], head_width: int) -> None:
    """Raise ValueError unless a transformer's places are told in all numbers of a head."""
    axes = read_fields(config, TRANSFORMER)["axes_dims_rope"]
    if sum(axes) != head_width or any(each % 2 for each in axes):
        raise ValueError(
            f"axes_dims_rope is {axes}, expected even numbers that add up to "
            f"attention_head_dim, {head_width}"
        )


def _read(config: dict[str, Any], fields: dict[str, Field]) -> dict[str, Any]:
    kinds = ("_class_name", "model_type")
    return {name: value for name, value in read_fields(config, fields).items() if name not in kinds}
