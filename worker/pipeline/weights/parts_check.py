"""Decide from configs and headers whether CLIP, the VAE and a plain T5 are those to draw with."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role
from worker.pipeline.weights.configs import layers, read_config
from worker.pipeline.weights.configs import width as wide_of
from worker.pipeline.weights.flux_shapes import FluxSizes, Shapes
from worker.pipeline.weights.safetensors_header import (
    SafetensorsHeader,
    StoredTensor,
    read_safetensors_header,
)
from worker.pipeline.weights.t5_check import fitting_encoder_sizes
from worker.pipeline.weights.t5_names import EMBEDDING, T5Sizes, encoder_shapes, transformers_names
from worker.pipeline.weights.transformer_check import read_sizes

PATCH = 4  # a token of the transformer is 2 x 2 latents
FLOATS = ("F32", "F16", "BF16")
PLAIN_EMBEDDING = "encoder.embed_tokens.weight"  # instead of `shared.weight`, in some files

Read = TypeVar("Read")


def check_parts(directory: Path, manifest: Manifest) -> None:
    """Refuse a directory whose CLIP, VAE or plain T5 is not that of its configs.

    Raises WeightsMissing, WeightsDamaged or WrongWeights naming file, tensor and remedy.
    """
    sizes = read_sizes(directory / Role.TRANSFORMER / "config.json")
    for role, check in ((Role.TEXT_ENCODER, check_clip), (Role.VAE, check_vae)):
        headers = _headers(directory, manifest, role)
        if not headers:
            raise WeightsMissing(
                f"{directory}: the manifest lists no .safetensors file of {role}; "
                "docs/weights.md says what belongs into the folder"
            )
        check(headers, directory / role / "config.json", sizes)
    if plain := _headers(directory, manifest, Role.TEXT_ENCODER_2):
        check_plain_encoder(plain, fitting_encoder_sizes(directory))


def check_clip(headers: Iterable[SafetensorsHeader], config: Path, sizes: FluxSizes) -> None:
    """Refuse a CLIP text model that is not its config's, or not the transformer's."""
    expected, width = _understood(config, "CLIP text model", _clip_shapes)
    if width != sizes.pooled_channels:
        raise WrongWeights(
            f"{config}: hidden_size is {width}, but the transformer takes {sizes.pooled_channels} "
            "pooled channels; put text_encoder of FLUX.1-Kontext-dev there"
        )
    _check(headers, expected, Role.TEXT_ENCODER)


def check_vae(headers: Iterable[SafetensorsHeader], config: Path, sizes: FluxSizes) -> None:
    """Refuse a VAE that is not its config's, or whose latents are not the transformer's."""
    expected, channels = _understood(config, "VAE", _vae_shapes)
    if channels * PATCH != sizes.in_channels:
        raise WrongWeights(
            f"{config}: latent_channels is {channels}, but the transformer takes "
            f"{sizes.in_channels // PATCH}; put vae of FLUX.1-Kontext-dev there"
        )
    _check(headers, expected, Role.VAE)


def check_plain_encoder(headers: Iterable[SafetensorsHeader], sizes: T5Sizes) -> None:
    """Refuse safetensors that do not hold a T5 encoder of these sizes."""
    ours, headers = encoder_shapes(sizes), tuple(headers)
    expected = {theirs: ours[name] for name, theirs in transformers_names(sizes.layers).items()}
    if any(PLAIN_EMBEDDING in header.tensors for header in headers) and not any(
        "shared.weight" in header.tensors for header in headers
    ):
        del expected["shared.weight"]
        expected[PLAIN_EMBEDDING] = ours[EMBEDDING]
    _check(headers, expected, Role.TEXT_ENCODER_2)


def _headers(directory: Path, manifest: Manifest, role: Role) -> list[SafetensorsHeader]:
    return [
        read_safetensors_header(directory / file.path)
        for file in manifest.of(role)
        if file.path.endswith(".safetensors")
    ]


def _understood(config: Path, what: str, read: Callable[[Any], Read]) -> Read:
    try:
        return read(read_config(config))
    except FileNotFoundError:
        raise WeightsMissing(f"{config}: not there; copy it from FLUX.1-Kontext-dev") from None
    except (ValueError, KeyError, TypeError, IndexError, OSError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsDamaged(
            f"{config}: not a {what}'s config ({reason}); copy it from FLUX.1-Kontext-dev"
        ) from None


def _clip_shapes(config: Any) -> tuple[Shapes, int]:
    if config["model_type"] != "clip_text_model":
        raise ValueError(f"model_type is {config['model_type']!r:.80}")
    width, wide = wide_of(config, "hidden_size"), wide_of(config, "intermediate_size")
    embeddings = "text_model.embeddings"
    words, places = wide_of(config, "vocab_size"), wide_of(config, "max_position_embeddings")
    shapes: Shapes = {
        f"{embeddings}.token_embedding.weight": (words, width),
        f"{embeddings}.position_embedding.weight": (places, width),
        "text_model.final_layer_norm.weight": (width,),
    }
    for index in range(layers(config, "num_hidden_layers")):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (width, width)
        shapes[f"{layer}.mlp.fc1.weight"] = (wide, width)
        shapes[f"{layer}.mlp.fc2.weight"] = (width, wide)
    return shapes, width


def _vae_shapes(config: Any) -> tuple[Shapes, int]:
    """List the tensors at both ends of a VAE and one of each level, which tell it from others."""
    if config["_class_name"] != "AutoencoderKL":
        raise ValueError(f"_class_name is {config['_class_name']!r:.80}")
    latents, image = int(config["latent_channels"]), int(config["in_channels"])
    levels = [int(width) for width in config["block_out_channels"]]
    float(config["scaling_factor"]), float(config["shift_factor"])  # pictures need both
    first, last = levels[0], levels[-1]
    shapes: Shapes = {
        "encoder.conv_in.weight": (first, image, 3, 3),
        "encoder.conv_out.weight": (2 * latents, last, 3, 3),
        "decoder.conv_in.weight": (last, latents, 3, 3),
        "decoder.conv_out.weight": (int(config["out_channels"]), first, 3, 3),
    }
    for index, width in enumerate(levels):
        shapes[f"encoder.down_blocks.{index}.resnets.0.conv2.weight"] = (width, width, 3, 3)
        shapes[f"decoder.up_blocks.{len(levels) - 1 - index}.resnets.0.conv2.weight"] = (
            width, width, 3, 3,
        )  # fmt: skip
    return shapes, latents


def _check(headers: Iterable[SafetensorsHeader], expected: Shapes, role: Role) -> None:
    headers = tuple(headers)
    there: dict[str, tuple[SafetensorsHeader, StoredTensor]] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in there:
                _refuse(header, f"tensor {name!r:.80} is in {there[name][0].path}, too", role)
            there[name] = (header, tensor)
    missing = [name for name in expected if name not in there]
    if missing:
        _refuse(
            headers[-1],
            f"tensor {missing[0]!r} of shape {expected[missing[0]]} is missing "
            f"(as are {len(missing) - 1}){_and_elsewhere(headers)}",
            role,
        )
    _check_tensors(there, expected, role)


def _check_tensors(
    there: Mapping[str, tuple[SafetensorsHeader, StoredTensor]], expected: Shapes, role: Role
) -> None:
    for name, shape in expected.items():
        header, found = there[name]
        if found.shape != shape:
            _refuse(header, f"tensor {name!r} has shape {found.shape}, expected {shape}", role)
        if found.type not in FLOATS:
            _refuse(header, f"tensor {name!r} is stored as {found.type}, which is not read", role)


def _and_elsewhere(headers: tuple[SafetensorsHeader, ...]) -> str:
    return f", also from the other {len(headers) - 1} files" if len(headers) > 1 else ""


def _refuse(header: SafetensorsHeader, reason: str, role: Role) -> NoReturn:
    raise WrongWeights(
        f"{header.path}: {reason}; put {role} of FLUX.1-Kontext-dev there, all of its files"
    )
