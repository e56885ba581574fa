"""`inspect_weights`: what it tells, and that it stays light whatever it is given."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import WeightsMissing
from tests.unit.gguf_files import ARRAY, STRING, UINT32, Info, array, gguf_bytes, write_transformer
from worker.pipeline.tiny_shapes import TRANSFORMER
from worker.pipeline.weights.flux_shapes import Naming, expected_shapes
from worker.pipeline.weights.gguf_header import read_header
from worker.pipeline.weights.inspect import (
    MAX_ORIGIN,
    header_facts,
    inspect_weights,
    origin_of,
)

# Runs in a fresh interpreter whose memory and time are limited by the kernel.
INSPECT = """
import json, resource, sys
from dataclasses import asdict
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
from worker.pipeline.weights.inspect import inspect_weights
found = asdict(inspect_weights(Path(sys.argv[1])))
# not ru_maxrss: that is inherited from the parent, which has torch in it
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) // 1024
heavy = sorted({"torch", "numpy", "gguf", "diffusers", "transformers"} & set(sys.modules))
print(json.dumps({"found": found, "peak": peak, "heavy": heavy}))
"""


def inspected_alone(path: Path) -> dict[str, Any]:
    """Inspect in a process of its own; insist on no torch and less than 100 MB."""
    ran = subprocess.run(
        [sys.executable, "-c", INSPECT, str(path)], capture_output=True, text=True, timeout=30
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    assert told["heavy"] == []
    assert told["peak"] < 100
    found: dict[str, Any] = told["found"]
    return found


def test_tiny_weights_are_described(tiny: Path) -> None:
    found = inspected_alone(tiny)
    assert (found["label"], found["problem"]) == ("illo-tiny-2", None)
    encoder, model = found["gguf"]
    assert encoder["architecture"] == "t5encoder"
    assert encoder["quantizations"] == {"Q8_0": 15, "F32": 6}
    assert encoder["verdict"] == "this is a T5 text encoder of 2 blocks and width 64"
    assert model["architecture"] == "flux"
    assert model["quantizations"] == {"BF16": 1, "F32": 62, "Q8_0": 49}
    assert (model["image_input"], model["image_input_type"]) == ([64, 64], "BF16")
    assert (model["blocks"], model["tensors"]) == ([2, 2], 112)
    assert {file["role"] for file in found["files"]} >= {"transformer", "vae", "tokenizer_2"}


def test_a_header_is_one_event_of_a_log(tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_name_or_path": "somebody/kontext" + "x" * 1_000}))
    facts = header_facts(read_header(tiny / "transformer/model.gguf"), config=config)
    assert json.loads(json.dumps(facts)) == facts
    origin = facts.pop("name_or_path")
    assert str(origin).startswith("somebody/kontext")
    assert len(str(origin)) == MAX_ORIGIN
    assert facts == {
        "file": str(tiny / "transformer/model.gguf"),
        "architecture": "flux",
        "tensors": 112,
        "parameters": 491_712,
        "quantizations": {"BF16": 1, "F32": 62, "Q8_0": 49},
        "img_in": [64, 64],
        "img_in_type": "BF16",
        "name": "illo-tiny-2",
    }


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"_name_or_path": 7}', '{"_name_or_path": ""}']
)
def test_where_weights_are_from_may_be_untold(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert origin_of(tmp_path / "config.json") is None
    assert origin_of(tmp_path / "nowhere.json") is None


def test_a_directory_with_another_vae_has_a_problem(tiny: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny, tmp_path / "weights"))
    config = weights / "vae/config.json"
    config.write_text(config.read_text().replace('"latent_channels": 16', '"latent_channels": 4'))
    manifest = json.loads((weights / "manifest.json").read_text())
    for file in manifest["files"]:
        file["bytes"] = (weights / file["path"]).stat().st_size
    (weights / "manifest.json").write_text(json.dumps(manifest))
    assert "latent_channels is 4" in str(inspect_weights(weights).problem)


def test_a_single_file_is_described(tiny: Path) -> None:
    found = inspect_weights(tiny / "transformer/model.gguf")
    assert (found.label, found.problem, len(found.gguf)) == ("illo-tiny-2", None, 1)


@pytest.mark.parametrize("channels", [128, 384])
def test_a_mislabelled_file_is_called_by_its_name(tmp_path: Path, channels: int) -> None:
    shapes = expected_shapes(replace(TRANSFORMER, in_channels=channels), Naming.ORIGINAL)
    write_transformer(tmp_path / "kontext.gguf", shapes)
    found = inspected_alone(tmp_path / "kontext.gguf")
    name = {128: "FLUX.1-Depth-dev", 384: "FLUX.1-Fill-dev"}[channels]
    assert name in found["gguf"][0]["verdict"]
    assert "illo draws with FLUX.1-Kontext-dev" in found["problem"]
    assert found["gguf"][0]["blocks"] == [2, 2]


def test_a_directory_with_another_model_in_it_has_a_problem(tiny: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny, tmp_path / "weights"))
    shapes = expected_shapes(TRANSFORMER, Naming.DIFFUSERS) | {"x_embedder.weight": (64, 128)}
    write_transformer(weights / "transformer/model.gguf", shapes)
    manifest = json.loads((weights / "manifest.json").read_text())
    for file in manifest["files"]:
        file["bytes"] = (weights / file["path"]).stat().st_size
    (weights / "manifest.json").write_text(json.dumps(manifest))
    found = inspect_weights(weights)
    assert found.problem is not None
    assert "FLUX.1-Depth-dev" in found.problem


HOSTILE = {
    "81 bytes with an array of 2^32": gguf_bytes(keys=[("k", array(UINT32, 2**32, bytes(8)))]),
    "a million strings": gguf_bytes(keys=[("k", array(STRING, 10**6, bytes(8 * 10**6)))]),
    "nested arrays": gguf_bytes(keys=[("k", array(ARRAY, 10**6, bytes(10**6)))]),
    "billions of tensors": gguf_bytes(tensor_count=2**40),
    "a tensor of 2^252 elements": gguf_bytes([Info(name="w", dims=(2**63,) * 4)]),
    "long names": gguf_bytes([Info(name=f"{i:04}" * 16_000, dims=(1,)) for i in range(120)]),
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_told_as_a_problem_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.gguf").write_bytes(HOSTILE[name])
    assert "model.gguf: " in str(inspected_alone(tmp_path / "model.gguf")["problem"])


def test_a_truncated_file_is_told_as_a_problem(tiny: Path, tmp_path: Path) -> None:
    content = (tiny / "transformer/model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[:100_000])
    assert "past the end of the file" in inspected_alone(tmp_path / "model.gguf")["problem"]


def test_a_file_of_something_else_is_told_as_a_problem(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_bytes([Info(name="tok_embd.weight")], payload=256))
    assert inspect_weights(tmp_path / "model.gguf").problem is not None


@pytest.mark.parametrize(
    "name", ["enc.blk.0.attn_q.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]
)
def test_a_part_of_a_t5_encoder_is_recognised_as_that(tmp_path: Path, name: str) -> None:
    (tmp_path / "t5.gguf").write_bytes(gguf_bytes([Info(name=name)], payload=256))
    found = inspect_weights(tmp_path / "t5.gguf")
    assert found.gguf[0].verdict == "this is a T5 text encoder, or a part of one"
    assert found.problem is not None


def test_a_path_with_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="correct the path"):
        inspect_weights(tmp_path / "nowhere")
