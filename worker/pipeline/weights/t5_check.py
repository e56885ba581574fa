"""Decide from configs and headers whether a directory's T5 encoder is the one to draw with."""

from pathlib import Path
from typing import Any, NoReturn

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Manifest, Role
from worker.pipeline.weights.configs import read_config
from worker.pipeline.weights.gguf_header import GgufHeader
from worker.pipeline.weights.part_configs import t5_fields
from worker.pipeline.weights.t5_names import EMBEDDING, POSITIONS, T5Sizes, encoder_shapes
from worker.pipeline.weights.transformer_check import DRAWABLE, read_sizes

ARCHITECTURES = ("t5encoder", "t5")  # of a file without a decoder, and of one with
ACTIVATION = "gated-gelu"
_BLOCK = "enc.blk."
_TRANSFORMERS_BLOCK = "encoder.block."
_REMEDY = "illo reads the T5 encoder of FLUX.1-Kontext-dev: put that there instead"


def fitting_encoder_sizes(directory: Path) -> T5Sizes:
    """Read T5's sizes from its config; raises WrongWeights unless they fit the transformer's."""
    config = directory / Role.TEXT_ENCODER_2 / "config.json"
    sizes = read_encoder_sizes(config)
    taken = read_sizes(directory / Role.TRANSFORMER / "config.json").text_channels
    if sizes.width != taken:
        raise WrongWeights(
            f"{config}: d_model is {sizes.width}, but the transformer takes text of {taken} "
            f"channels; {_REMEDY}"
        )
    return sizes


def find_packed_encoder(directory: Path | str, manifest: Manifest) -> Path | None:
    """Name T5's GGUF file, or None where the manifest lists safetensors.

    Raises WeightsMissing if it lists neither, WrongWeights if it leaves a choice.
    """
    listed = [file.path for file in manifest.of(Role.TEXT_ENCODER_2)]
    packed = [path for path in listed if path.endswith(".gguf")]
    plain = [path for path in listed if path.endswith(".safetensors")]
    if not packed and not plain:
        raise WeightsMissing(
            f"{directory}: the manifest lists neither a .gguf nor a .safetensors file of "
            f"{Role.TEXT_ENCODER_2}; docs/weights.md says what belongs into the folder"
        )
    if len(packed) > 1 or (packed and plain):
        raise WrongWeights(
            f"{directory}: the manifest lists {packed[0]!r} and {[*packed[1:], *plain][0]!r}; "
            "keep the one that is to be used"
        )
    return Path(directory) / packed[0] if packed else None


def read_encoder_sizes(config: Path) -> T5Sizes:
    """Read the sizes from the `config.json` of a T5 whose feed-forward is a gated GELU."""
    fields = read_encoder_fields(config)
    return T5Sizes(
        words=fields["vocab_size"],
        width=fields["d_model"],
        wide=fields["d_ff"],
        heads=fields["num_heads"],
        head_width=fields["d_kv"],
        layers=fields["num_layers"],
        buckets=fields["relative_attention_num_buckets"],
    )


def read_encoder_fields(config: Path) -> dict[str, Any]:
    """Read what an encoder is built by: the fields of `T5`, and that it is gated."""
    try:
        found = read_config(config)
        if found.get("model_type") != "t5":
            raise WrongWeights(
                f"{config}: is of {found.get('model_type')!r:.80}, not 't5'; {_REMEDY}"
            )
        # without it transformers silently takes ReLU, and every picture is slightly wrong
        activation = found.get("feed_forward_proj")
        if activation != ACTIVATION:
            raise WrongWeights(
                f"{config}: feed_forward_proj is {activation!r:.80}, expected {ACTIVATION!r}; "
                f"{_REMEDY}"
            )
        return {**t5_fields(found), "feed_forward_proj": ACTIVATION}
    except FileNotFoundError:
        raise WeightsMissing(f"{config}: not there; copy it from FLUX.1-Kontext-dev") from None
    except (ValueError, OSError) as error:
        raise WeightsDamaged(
            f"{config}: not a T5's config ({error}); copy it from FLUX.1-Kontext-dev"
        ) from None


def is_encoder(header: GgufHeader) -> bool:
    """Tell whether a file holds a T5 encoder, or what seems to have been meant as one."""
    return header.metadata.get("general.architecture") in ARCHITECTURES or any(
        name.startswith((_BLOCK, _TRANSFORMERS_BLOCK)) for name in header.tensors
    )


def sizes_in(header: GgufHeader) -> T5Sizes:
    """Gather the sizes from the shapes in a file that has no config beside it.

    Raises WrongWeights if a tensor that tells one of them is missing or no matrix.
    """
    _refuse_other_names(header)
    blocks = {name.split(".")[2] for name in header.tensors if name.startswith(_BLOCK)}
    words, width = _sides(header, EMBEDDING)
    buckets, heads = _sides(header, POSITIONS)
    wide, _ = _sides(header, f"{_BLOCK}0.ffn_gate.weight")
    inner, _ = _sides(header, f"{_BLOCK}0.attn_q.weight")
    return T5Sizes(
        words=words,
        width=width,
        wide=wide,
        heads=heads,
        head_width=inner // heads,
        layers=len(blocks),
        buckets=buckets,
    )


def check_packed_encoder(header: GgufHeader, sizes: T5Sizes) -> None:
    """Refuse a GGUF file that is not exactly an encoder of these sizes; a decoder may be beside it.

    Raises WrongWeights naming file, tensor, found and expected shape, and the remedy.
    """
    label = header.metadata.get("general.architecture", ARCHITECTURES[0])
    if label not in ARCHITECTURES:
        _refuse(header, f"its general.architecture is {label!r:.80}, not {ARCHITECTURES[0]!r}")
    _refuse_other_names(header)
    expected = encoder_shapes(sizes)
    for name, shape in expected.items():
        if name not in header.tensors:
            missing = sum(other not in header.tensors for other in expected)
            _refuse(header, f"tensor {name!r} of shape {shape} is missing (as are {missing - 1})")
        found = header.tensors[name]
        if found.shape != shape:
            _refuse(header, f"tensor {name!r} has shape {found.shape}, expected {shape}")
        if found.type.name not in DRAWABLE:
            _refuse(header, f"tensor {name!r} is stored as {found.type.name}, which is not read")
    for name, tensor in header.tensors.items():
        if name not in expected and not of_decoder(name):
            _refuse(header, f"tensor {name!r:.80} of shape {tensor.shape} is one too many")


def _refuse(header: GgufHeader, reason: str) -> NoReturn:
    raise WrongWeights(f"{header.path}: {reason}; {_REMEDY}")


def _refuse_other_names(header: GgufHeader) -> None:
    if any(name.startswith(_TRANSFORMERS_BLOCK) for name in header.tensors):
        _refuse(header, "its tensors have transformers' names, not those that llama.cpp gives them")


def of_decoder(name: str) -> bool:
    """Tell whether a tensor is of a T5's decoder, which nothing is drawn with."""
    return name.startswith("dec.") or name == "output.weight"


def _sides(header: GgufHeader, name: str) -> tuple[int, int]:
    if name not in header.tensors:
        _refuse(header, f"tensor {name!r} is missing")
    shape = header.tensors[name].shape
    if len(shape) != 2:
        _refuse(header, f"tensor {name!r} has shape {shape}, expected a matrix")
    return shape[0], shape[1]
