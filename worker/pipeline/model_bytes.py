"""Sum up from headers and configs what a set of models will take on the device."""

from collections.abc import Iterable
from math import prod
from pathlib import Path

from shared.errors import WeightsDamaged
from shared.manifest import Role
from worker.pipeline.peaks import UNPACKING_BYTES, Widths
from worker.pipeline.plan import ModelBytes
from worker.pipeline.weights.configs import read_config
from worker.pipeline.weights.gguf_header import GgufHeader, GgufTensor
from worker.pipeline.weights.opening import Opened
from worker.pipeline.weights.safetensors_header import SafetensorsHeader
from worker.pipeline.weights.t5_check import of_decoder, read_encoder_sizes
from worker.pipeline.weights.t5_names import POSITIONS
from worker.pipeline.weights.transformer_check import read_sizes

_FLOATS = ("F64", "F32", "F16", "BF16")


def models_in(opened: Opened, *, element_bytes: int) -> ModelBytes:
    """Sum up the models of weights whose headers were judged.

    Packed matrices count as they lie, all other floats as the compute type's `element_bytes`.
    """
    transformer = [
        each.header for each in opened.of(Role.TRANSFORMER) if isinstance(each.header, GgufHeader)
    ]
    return ModelBytes(
        transformer=_bytes_of(opened, Role.TRANSFORMER, element_bytes),
        text_encoder_2=_bytes_of(opened, Role.TEXT_ENCODER_2, element_bytes),
        text_encoder=_bytes_of(opened, Role.TEXT_ENCODER, element_bytes),
        vae=_bytes_of(opened, Role.VAE, element_bytes),
        widths=Widths(
            flux=read_sizes(opened.folder / Role.TRANSFORMER / "config.json"),
            t5=read_encoder_sizes(opened.folder / Role.TEXT_ENCODER_2 / "config.json"),
            vae=_vae_channels(opened.folder / Role.VAE / "config.json"),
            element_bytes=element_bytes,
            unpacking=_unpacking(transformer[0].tensors.values()),
            text_tokens=opened.manifest.text_tokens,
        ),
    )


def _bytes_of(opened: Opened, role: Role, element_bytes: int) -> int:
    return sum(
        _packed_bytes(file.header, element_bytes)
        if isinstance(file.header, GgufHeader)
        else _plain_bytes(file.header, element_bytes)
        for file in opened.of(role)
    )


def _packed_bytes(header: GgufHeader, element_bytes: int) -> int:
    return sum(
        prod(tensor.shape) * element_bytes if _becomes_plain(tensor) else tensor.bytes
        for name, tensor in header.tensors.items()
        if not of_decoder(name)
    )


def _becomes_plain(tensor: GgufTensor) -> bool:
    # T5's positions are gathered by an embedding, its other matrices by layers that unpack
    return len(tensor.shape) == 1 or tensor.name == POSITIONS


def _plain_bytes(header: SafetensorsHeader, element_bytes: int) -> int:
    return sum(
        prod(tensor.shape) * element_bytes if tensor.type in _FLOATS else tensor.stop - tensor.start
        for tensor in header.tensors.values()
    )


def _vae_channels(config: Path) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in read_config(config)["block_out_channels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsDamaged(
            f"{config}: not a VAE's config ({reason}); copy it from FLUX.1-Kontext-dev"
        ) from None


def _unpacking(tensors: Iterable[GgufTensor]) -> float:
    # a small matrix may be stored otherwise: it is the wide ones that are unpacked at a peak
    matrices = [(prod(each.shape), each.type.name) for each in tensors if len(each.shape) > 1]
    most = max(elements for elements, _ in matrices)
    return max(UNPACKING_BYTES[name] * elements / most for elements, name in matrices)
