"""Decide from configs and headers if scheduler, CLIP, VAE and plain T5 are those to draw with."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Role
from worker.pipeline.weights.configs import read_config
from worker.pipeline.weights.flux_shapes import FluxSizes, Shapes
from worker.pipeline.weights.part_configs import clip_fields, scheduler_fields, vae_fields
from worker.pipeline.weights.part_shapes import clip_shapes, vae_shapes
from worker.pipeline.weights.safetensors_header import SafetensorsHeader, StoredTensor
from worker.pipeline.weights.t5_names import EMBEDDING, T5Sizes, encoder_shapes, transformers_names

PATCH = 4  # a token of the transformer is 2 x 2 latents
FLOATS = ("F32", "F16", "BF16")
PLAIN_EMBEDDING = "encoder.embed_tokens.weight"  # instead of `shared.weight`, in some files

Read = TypeVar("Read")


def check_scheduler(config: Path) -> None:
    """Refuse a scheduler that is not the one that the transformer was trained with."""
    understood(config, "FLUX scheduler", scheduler_fields)


def check_clip(headers: Iterable[SafetensorsHeader], config: Path, sizes: FluxSizes) -> None:
    """Refuse a CLIP text model that is not its config's, or not the transformer's."""
    fields = understood(config, "CLIP text model", clip_fields)
    width = fields["hidden_size"]
    if width != sizes.pooled_channels:
        raise WrongWeights(
            f"{config}: hidden_size is {width}, but the transformer takes {sizes.pooled_channels} "
            "pooled channels; put text_encoder of FLUX.1-Kontext-dev there"
        )
    _check(headers, clip_shapes(fields), Role.TEXT_ENCODER)


def check_vae(headers: Iterable[SafetensorsHeader], config: Path, sizes: FluxSizes) -> None:
    """Refuse a VAE that is not its config's, or whose latents are not the transformer's."""
    fields = understood(config, "VAE", vae_fields)
    channels = fields["latent_channels"]
    if channels * PATCH != sizes.in_channels:
        raise WrongWeights(
            f"{config}: latent_channels is {channels}, but the transformer takes "
            f"{sizes.in_channels // PATCH}; put vae of FLUX.1-Kontext-dev there"
        )
    _check(headers, vae_shapes(fields), Role.VAE)


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


def understood(config: Path, what: str, read: Callable[[dict[str, Any]], Read]) -> Read:
    """Read a config; raises WeightsMissing, or WeightsDamaged saying what it should have said."""
    try:
        return read(read_config(config))
    except FileNotFoundError:
        raise WeightsMissing(f"{config}: not there; copy it from FLUX.1-Kontext-dev") from None
    except (ValueError, OSError) as error:
        raise WeightsDamaged(
            f"{config}: not a {what}'s config ({error}); copy it from FLUX.1-Kontext-dev"
        ) from None


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
