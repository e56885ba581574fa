"""The one verdict on weights, by headers and small files: a worker's, verify's and prepare's."""

from collections.abc import Sequence
from pathlib import Path

from shared.errors import WeightsMissing, WrongWeights
from shared.manifest import Expects, Manifest, Role, WeightsFile
from worker.pipeline.weights.files import large_files
from worker.pipeline.weights.gguf_header import GgufHeader
from worker.pipeline.weights.layout import ORDER, OpenedFile
from worker.pipeline.weights.part_configs import clip_fields
from worker.pipeline.weights.parts_check import (
    check_clip,
    check_plain_encoder,
    check_scheduler,
    check_vae,
    understood,
)
from worker.pipeline.weights.safetensors_header import SafetensorsHeader
from worker.pipeline.weights.t5_check import (
    check_packed_encoder,
    find_packed_encoder,
    fitting_encoder_sizes,
)
from worker.pipeline.weights.transformer_check import check_transformer, read_sizes
from worker.pipeline.weights.words_check import check_clip_words, check_t5_words

_WHAT = "docs/weights.md says what belongs into the folder"


def files_in_order(name: str, manifest: Manifest) -> list[WeightsFile]:
    """List the files of tensors in the order in which a worker wants them.

    Raises WeightsMissing or WrongWeights unless they are those of the four models.
    """
    large = large_files(manifest)
    for file in large:
        if file.role not in ORDER:
            raise WrongWeights(
                f"{name}/{file.path}: tensors of {file.role}, which has none; move it away"
            )
    transformers = [file for file in large if file.role is Role.TRANSFORMER]
    if len(transformers) != 1 or not transformers[0].path.endswith(".gguf"):
        raise WeightsMissing(
            f"{name}: the manifest lists {len(transformers)} transformer files of tensors, "
            f"expected one .gguf; {_WHAT}"
        )
    find_packed_encoder(name, manifest)
    for role in (Role.TEXT_ENCODER, Role.VAE):
        of_role = [file.path for file in large if file.role is role]
        if not of_role or any(not path.endswith(".safetensors") for path in of_role):
            raise WeightsMissing(
                f"{name}: the manifest lists {of_role or 'no file'} of {role}, expected "
                f".safetensors; {_WHAT}"
            )
    return sorted(large, key=lambda file: ORDER.index(file.role))


def check_weights(folder: Path, files: Sequence[OpenedFile], expects: Expects) -> None:
    """Refuse what a worker would: tensors, configs and tokenizers that make no model of FLUX.

    Raises WeightsMissing, WeightsDamaged or WrongWeights naming file, what is wrong and the remedy.
    """
    fitting_encoder_sizes(folder)  # of two faults the one that is easier to understand
    check_tensors(folder, files, expects)
    check_words(folder)


def check_words(folder: Path) -> None:
    """Refuse tokenizers whose words are not those of the encoders, and another scheduler.

    Raises as `check_weights` does.
    """
    clip = understood(folder / Role.TEXT_ENCODER / "config.json", "CLIP text model", clip_fields)
    words, places = clip["vocab_size"], clip["max_position_embeddings"]
    check_clip_words(folder / Role.TOKENIZER, words=words, places=places)
    check_t5_words(folder / Role.TOKENIZER_2, words=fitting_encoder_sizes(folder).words)
    check_scheduler(folder / Role.SCHEDULER / "scheduler_config.json")


def check_tensors(folder: Path, files: Sequence[OpenedFile], expects: Expects) -> None:
    """Refuse models whose tensors are not those of the configs in the folder, or of the label.

    Raises as `check_weights` does.
    """
    plain: dict[Role, list[SafetensorsHeader]] = {}
    for file in files:
        if isinstance(file.header, SafetensorsHeader):
            plain.setdefault(file.role, []).append(file.header)
    sizes = read_sizes(folder / Role.TRANSFORMER / "config.json")
    for file in files:
        if not isinstance(file.header, GgufHeader):
            continue
        if file.role is Role.TRANSFORMER:
            check_transformer(file.header, folder / Role.TRANSFORMER / "config.json", expects)
        else:
            check_packed_encoder(file.header, fitting_encoder_sizes(folder))
    check_clip(plain[Role.TEXT_ENCODER], folder / Role.TEXT_ENCODER / "config.json", sizes)
    check_vae(plain[Role.VAE], folder / Role.VAE / "config.json", sizes)
    if Role.TEXT_ENCODER_2 in plain:
        check_plain_encoder(plain[Role.TEXT_ENCODER_2], fitting_encoder_sizes(folder))
