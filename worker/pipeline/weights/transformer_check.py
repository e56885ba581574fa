"""Decide from its header whether a GGUF file holds the transformer that illo draws with."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Expects
from worker.pipeline.weights.configs import layers, read_config, width
from worker.pipeline.weights.flux_shapes import FluxSizes, expected_shapes, naming_of
from worker.pipeline.weights.gguf_header import GgufHeader, GgufTensor
from worker.pipeline.weights.part_configs import check_axes

ARCHITECTURE = "flux"
CONFIG_CLASS = "FluxTransformer2DModel"
# What diffusers 0.42 can dequantise; other types load and then fail in the first forward.
_PLAIN = {"F32", "F16", "BF16"}
_PACKED = {"Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K"}
DRAWABLE = _PLAIN | _PACKED | {"IQ4_NL", "IQ4_XS"}
CHANNELS = 64  # 16 latent channels in patches of 2 x 2; Kontext's reference comes as more tokens
_KNOWN_CHANNELS = {
    64: "FLUX.1-Kontext-dev or FLUX.1-dev",
    128: "FLUX.1-Depth-dev or FLUX.1-Canny-dev",
    384: "FLUX.1-Fill-dev",
}
_REMEDY = "illo draws with FLUX.1-Kontext-dev: put its transformer there instead"
# Repackaged single files prefix every name with this.
_PREFIX = "model.diffusion_model."


def check_transformer(header: GgufHeader, config: Path, expects: Expects) -> None:
    """Refuse a transformer that is not the one its config and manifest describe.

    Raises WrongWeights naming file, tensor, found and expected shape, and the remedy.
    """
    sizes = read_sizes(config)
    _check_config(config, sizes, expects)
    label = header.metadata.get("general.architecture", ARCHITECTURE)
    if label != ARCHITECTURE:
        _refuse(header, f"its general.architecture is {label!r:.80}, not {ARCHITECTURE!r}")
    tensors = unprefixed(header)
    naming = naming_of(tensors)
    if naming is None:
        _refuse(header, "it has no img_in.weight or x_embedder.weight, so it is no FLUX model")
    _check_image_input(header, tensors[naming.image_input], sizes)
    _check_tensors(header, tensors, expected_shapes(sizes, naming))


def read_sizes(config: Path) -> FluxSizes:
    """Read the sizes from a diffusers `config.json` of a FLUX transformer."""
    try:
        found = read_config(config)
        if found["_class_name"] != CONFIG_CLASS:
            raise WrongWeights(f"{config}: is of {found['_class_name']!r:.80}, not {CONFIG_CLASS}")
        in_channels = width(found, "in_channels")
        check_axes(found, width(found, "attention_head_dim"))
        return FluxSizes(
            in_channels=in_channels,
            out_channels=width(found, "out_channels") if found.get("out_channels") else in_channels,
            double_blocks=layers(found, "num_layers"),
            single_blocks=layers(found, "num_single_layers"),
            heads=width(found, "num_attention_heads"),
            head_channels=width(found, "attention_head_dim"),
            text_channels=width(found, "joint_attention_dim"),
            pooled_channels=width(found, "pooled_projection_dim"),
            guidance=found["guidance_embeds"],
        )
    except FileNotFoundError:
        raise WeightsMissing(f"{config}: not there; copy it from FLUX.1-Kontext-dev") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsDamaged(
            f"{config}: not a transformer's config ({reason}); copy it from FLUX.1-Kontext-dev"
        ) from None


def unprefixed(header: GgufHeader) -> Mapping[str, GgufTensor]:
    """Map plain tensor names to tensors, whatever prefix the file gives them."""
    return {name.removeprefix(_PREFIX): tensor for name, tensor in header.tensors.items()}


def model_of(in_channels: int) -> str:
    """Name the FLUX models that take this many channels in."""
    return _KNOWN_CHANNELS.get(in_channels, f"an unknown FLUX model with {in_channels} channels")


def _refuse(header: GgufHeader, reason: str) -> NoReturn:
    raise WrongWeights(f"{header.path}: {reason}; {_REMEDY}")


def _check_config(config: Path, sizes: FluxSizes, expects: Expects) -> None:
    if sizes.in_channels != CHANNELS:
        raise WrongWeights(
            f"{config}: in_channels is {sizes.in_channels}, expected {CHANNELS}: "
            f"this is {model_of(sizes.in_channels)}; {_REMEDY}"
        )
    found = Expects(
        in_channels=sizes.in_channels,
        blocks=(sizes.double_blocks, sizes.single_blocks),
        inner_dim=sizes.inner,
    )
    if found != expects:
        raise WrongWeights(
            f"{config}: describes {found}, but the manifest expects {expects}; {_REMEDY}"
        )


def _check_image_input(header: GgufHeader, tensor: GgufTensor, sizes: FluxSizes) -> None:
    expected = (sizes.inner, sizes.in_channels)
    if tensor.shape != expected:
        columns = tensor.shape[-1]
        _refuse(
            header,
            f"tensor {tensor.name!r} has the decoded shape {tensor.shape}, expected {expected}: "
            f"with {columns} channels this is {model_of(columns)}",
        )


def _check_tensors(
    header: GgufHeader, tensors: Mapping[str, GgufTensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            missing = sum(other not in tensors for other in expected)
            _refuse(header, f"tensor {name!r} of shape {shape} is missing (as are {missing - 1})")
        found = tensors[name]
        if found.shape != shape:
            _refuse(header, f"tensor {name!r} has shape {found.shape}, expected {shape}")
        if found.type.name not in DRAWABLE:
            _refuse(header, f"tensor {name!r} is stored as {found.type.name}, which is not drawn")
        # only linear layers unpack: a packed vector would break the first forward
        if len(shape) == 1 and found.type.name not in _PLAIN:
            _refuse(header, f"vector {name!r} is stored as {found.type.name}, which is packed")
    for name in tensors:
        if name not in expected:
            _refuse(header, f"tensor {name!r:.80} of shape {tensors[name].shape} is one too many")
