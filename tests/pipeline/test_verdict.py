"""One verdict on weights: what a worker refuses, verify and prepare refuse in the same words."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModel

from shared.errors import WeightsError
from tests.pipeline.conftest import THREADS
from tests.pipeline.drawings import a_scene, draw, pixels
from tests.pipeline.test_verify import remeasure
from worker.pipeline.kontext import Kontext
from worker.pipeline.start import begin
from worker.pipeline.tiny_shapes import SCHEDULER_CONFIG, VAE_CONFIG, clip_config, t5_config
from worker.pipeline.tiny_tokenizers import clip_words, t5_words
from worker.pipeline.weights.opening import open_weights
from worker.pipeline.weights.part_configs import (
    CLIP,
    SCHEDULER,
    T5,
    VAE,
    clip_fields,
    scheduler_fields,
    t5_fields,
    vae_fields,
)
from worker.pipeline.weights.part_shapes import clip_shapes, vae_shapes
from worker.pipeline.weights.place import LocalPlace
from worker.pipeline.weights.prepare import prepare_weights
from worker.pipeline.weights.verify import verify_folder

SCHEDULE, VAE_FILE = "scheduler/scheduler_config.json", "vae/config.json"
CLIP_FILE, T5_FILE = "text_encoder/config.json", "text_encoder_2/config.json"
TRANSFORMER_FILE = "transformer/config.json"
WORDS, MERGES = "tokenizer/vocab.json", "tokenizer/merges.txt"
CLIP_SAID, CLIP_MAP = "tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"
T5_WORDS, T5_SAID = "tokenizer_2/tokenizer.json", "tokenizer_2/tokenizer_config.json"
T5_MAP = "tokenizer_2/special_tokens_map.json"
GONE = object()

Config = dict[str, Any]


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny weights, to do harm to."""
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


def changed(weights: Path, path: str, changes: Mapping[str, object]) -> None:
    """Change fields of a file; one within another table is named after it and a full stop."""
    content = json.loads((weights / path).read_text())
    for name, value in changes.items():
        *outer, own = name.split(".")
        table = content
        for each in outer:
            table = table[each]
        if value is GONE:
            del table[own]
        else:
            table[own] = value
    rewritten(weights, path, json.dumps(content).encode())


def rewritten(weights: Path, path: str, content: bytes) -> None:
    (weights / path).write_bytes(content)
    remeasure(weights, path)


def refused_by_a_worker(weights: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        open_weights(LocalPlace(weights))
    return str(refused.value)


def refused_by_prepare(weights: Path) -> str:
    (weights / "manifest.json").unlink()
    model, t5 = weights / "transformer/model.gguf", weights / "text_encoder_2/model.gguf"
    with pytest.raises(WeightsError) as refused:
        prepare_weights(model, [t5], weights, weights.with_name("made"))
    return str(refused.value)


WRONG = [
    (SCHEDULE, {"_class_name": "DDIMScheduler"}, "_class_name is 'DDIMScheduler'"),
    (SCHEDULE, {"num_train_timesteps": 0}, "num_train_timesteps is 0, expected 1000"),
    (SCHEDULE, {"use_dynamic_shifting": False}, "use_dynamic_shifting is False, expected True"),
    (SCHEDULE, {"time_shift_type": "x"}, "time_shift_type is 'x', expected 'exponential'"),
    (SCHEDULE, {"use_beta_sigmas": True}, "use_beta_sigmas is True"),
    (SCHEDULE, {"base_shift": None}, "base_shift is None, expected a number from 0 to 16"),
    (SCHEDULE, {"max_shift": float("nan")}, "max_shift is nan"),
    (SCHEDULE, {"base_image_seq_len": 4096}, "expected less than max_image_seq_len, 4096"),
    (VAE_FILE, {"norm_num_groups": 3}, "expected a divisor of the 8 channels"),
    (VAE_FILE, {"norm_num_groups": 0}, "norm_num_groups is 0"),
    (VAE_FILE, {"norm_num_groups": GONE}, "norm_num_groups is 32, expected a divisor"),
    (VAE_FILE, {"act_fn": "nonsense"}, "act_fn is 'nonsense', expected 'silu' or 'swish'"),
    (VAE_FILE, {"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
    (VAE_FILE, {"layers_per_block": 2}, "resnets.1.norm1.weight' of shape (8,) is missing"),
    (VAE_FILE, {"use_quant_conv": True}, "use_quant_conv is True"),
    (VAE_FILE, {"down_block_types": ["DownEncoderBlock2D"] * 3}, "down_block_types is"),
    (VAE_FILE, {"down_block_types": ["DownEncoderBlock2D"] * 6}, "expected a list of 4 or 5"),
    (VAE_FILE, {"up_block_types": ["UpDecoderBlock2D"] * 5}, "up_block_types has 5, expected one"),
    (VAE_FILE, {"scaling_factor": 0}, "scaling_factor is 0"),
    (VAE_FILE, {"sample_size": [0]}, "sample_size is [0]"),
    (CLIP_FILE, {"num_attention_heads": 3}, "expected a divisor of hidden_size, 32"),
    (CLIP_FILE, {"hidden_act": "nonsense"}, "hidden_act is 'nonsense'"),
    (CLIP_FILE, {"eos_token_id": None}, "eos_token_id is None"),
    (T5_FILE, {"relative_attention_max_distance": 8}, "expected more than a quarter"),
    (T5_FILE, {"layer_norm_epsilon": "x"}, "layer_norm_epsilon is 'x'"),
    (TRANSFORMER_FILE, {"axes_dims_rope": [8, 12, 14]}, "add up to attention_head_dim, 32"),
    (TRANSFORMER_FILE, {"axes_dims_rope": [7, 13, 12]}, "expected even numbers"),
    (TRANSFORMER_FILE, {"patch_size": 2}, "patch_size is 2, expected 1"),
    (WORDS, {"a": 10**6}, "'a' is 1000000, expected a number below"),
    (CLIP_SAID, {"model_max_length": 10**9}, "model_max_length is 1000000000"),
    (CLIP_SAID, {"model_max_length": GONE}, "it has no model_max_length"),
    (CLIP_MAP, {"pad_token": "nowhere"}, "pad_token is 'nowhere', expected a word"),
    (CLIP_MAP, {"bos_token": {"content": 3}}, "bos_token is {'content': 3}, expected a word"),
    (T5_WORDS, {"other": 1}, "it has 'other', which is no section"),
    (T5_WORDS, {"model": None}, "model is None"),
    (T5_WORDS, {"model.vocab": [["a", "x"]]}, "no list of words and scores"),
    (T5_WORDS, {"model.unk_id": 10**9}, "unk_id is 1000000000"),
    (T5_WORDS, {"added_tokens": GONE}, "added_tokens is no list"),
    (T5_WORDS, {"decoder.replacement": "two"}, "replacement is 'two', expected one character"),
    (T5_WORDS, {"post_processor.single": [0]}, "single is [0]"),
    (T5_WORDS, {"pre_tokenizer.pretokenizers": [None]}, "pre_tokenizer is None"),
    (T5_SAID, {"extra_ids": "x"}, "extra_ids is 'x'"),
    (T5_MAP, {"eos_token": None}, "eos_token is None, expected a word"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "changes", "said"), WRONG, ids=[f"{path} {said}" for path, _, said in WRONG]
)
def test_a_file_that_says_what_cannot_be_drawn_with_is_refused_by_all_alike(
    weights: Path, path: str, changes: Mapping[str, object], said: str
) -> None:
    changed(weights, path, changes)
    (problem,) = verify_folder(weights).problems
    assert path.partition("/")[0] in problem
    assert said in problem
    assert "FLUX.1-Kontext-dev" in problem
    assert refused_by_a_worker(weights) == problem
    assert refused_by_prepare(weights) == problem


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (path, content)
        for path in (SCHEDULE, VAE_FILE, WORDS, MERGES, CLIP_SAID, T5_WORDS, T5_MAP)
        for content in (b"", b"[]", b"{", b"\xff\xfe{}", "{}".encode("utf-16"))
        if content or path != MERGES  # without any merges words are letters
    ],
)
def test_a_broken_file_is_refused_by_all_alike(weights: Path, path: str, content: bytes) -> None:
    rewritten(weights, path, content)
    (problem,) = verify_folder(weights).problems
    assert problem.startswith(f"{weights / path}: ")
    assert refused_by_a_worker(weights) == problem


@pytest.mark.parametrize("path", [SCHEDULE, WORDS, MERGES, CLIP_SAID, T5_WORDS])
def test_a_file_that_no_manifest_misses_is_missed_by_all_alike(weights: Path, path: str) -> None:
    (weights / path).unlink()
    manifest = weights / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"] = [file for file in content["files"] if file["path"] != path]
    manifest.write_text(json.dumps(content))
    (problem,) = verify_folder(weights).problems
    assert f"{weights / path}: not there" in problem
    assert refused_by_a_worker(weights) == problem


FIELDS = [
    (SCHEDULER, SCHEDULER_CONFIG, scheduler_fields),
    (VAE, VAE_CONFIG, vae_fields),
    (CLIP, clip_config(len(clip_words())), clip_fields),
    (T5, t5_config(len(t5_words())), t5_fields),
]


@pytest.mark.parametrize(
    ("name", "config", "read"),
    [(name, config, read) for fields, config, read in FIELDS for name in fields],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_field_is_believed_that_says_nonsense(
    name: str, config: Config, read: Callable[[Config], Config]
) -> None:
    read(config)
    for nonsense in ("x", [], {}, -(10**12), 10**12, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=name):
            read({**config, name: nonsense})


def test_what_nobody_judges_is_given_to_no_library(
    weights: Path, tiny: Path, kontext: Kontext
) -> None:
    strange = {"dtype": "nonsense", "quantization_config": {"quant_method": "x"}, "is_decoder": 3}
    for path in (SCHEDULE, VAE_FILE, CLIP_FILE, T5_FILE):
        changed(weights, path, strange)
    assert verify_folder(weights).problems == ()
    loaded = Kontext(begin(weights, device="cpu"), threads=THREADS)
    assert pixels(draw(loaded, a_scene())) == pixels(draw(kontext, a_scene()))


FULL_VAE = VAE_CONFIG | {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32,
}  # fmt: skip


@pytest.mark.parametrize(
    "config", [VAE_CONFIG, FULL_VAE, FULL_VAE | {"mid_block_add_attention": False}]
)
def test_every_tensor_of_a_vae_is_expected(config: Config) -> None:
    fields = vae_fields(config)
    with torch.device("meta"):
        model = AutoencoderKL(**fields)
    assert vae_shapes(fields) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


def test_every_tensor_of_clip_is_expected() -> None:
    fields = clip_fields(clip_config(512))
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**fields))
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    prefixed = {f"text_model.{name.removeprefix('text_model.')}": s for name, s in found.items()}
    assert clip_shapes(fields) == prefixed


def test_the_scheduler_is_the_one_of_the_whole_config() -> None:
    ours = FlowMatchEulerDiscreteScheduler(**scheduler_fields(SCHEDULER_CONFIG))
    theirs = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER_CONFIG)
    for name in scheduler_fields(SCHEDULER_CONFIG):
        assert ours.config[name] == theirs.config[name]
    assert torch.equal(ours.sigmas, theirs.sigmas)
