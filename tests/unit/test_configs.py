"""A model's config: what is read of it, and what would cost too much to believe."""

import json
import os
from pathlib import Path

import pytest

from shared.errors import WeightsDamaged
from shared.manifest import read_manifest
from worker.pipeline.weights.configs import (
    MAX_BYTES,
    MOST_LAYERS,
    MOST_WIDE,
    layers,
    read_config,
    width,
)
from worker.pipeline.weights.sources import LocalFile
from worker.pipeline.weights.t5_check import read_encoder_sizes
from worker.pipeline.weights.transformer_check import read_sizes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "Expecting"),
        (b"[]", "no table"),
        pytest.param(b'{"a":' * 50_000, "nested too deeply", id="deep"),
        pytest.param(b" " * (MAX_BYTES + 1), "larger than", id="large"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_config(tmp_path / "config.json")
    for read in (read_sizes, read_encoder_sizes):
        with pytest.raises(WeightsDamaged, match=r"config\.json: not a .*copy it"):
            read(tmp_path / "config.json")


def test_a_config_as_large_as_it_may_be_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}".ljust(MAX_BYTES))
    assert read_config(tmp_path / "config.json") == {}


@pytest.mark.parametrize(("read", "most"), [(layers, MOST_LAYERS), (width, MOST_WIDE)])
def test_a_number_is_believed_up_to_its_bound(read: object, most: int) -> None:
    assert callable(read)
    assert read({"n": most}, "n") == most
    for beyond in (most + 1, 10**30, -1, 1.0, True, "4", None):
        with pytest.raises(ValueError, match="n is"):
            read({"n": beyond}, "n")


def test_a_t5_of_a_billion_layers_is_refused_at_once(tmp_path: Path) -> None:
    sizes = dict.fromkeys(
        ("vocab_size", "d_model", "d_ff", "num_heads", "d_kv", "relative_attention_num_buckets"), 8
    )
    config = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "num_layers": 10**9} | sizes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsDamaged, match="num_layers is 1000000000"):
        read_encoder_sizes(tmp_path / "config.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("config.json", "manifest.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="no regular file"):
        read_config(tmp_path / "config.json")
    with pytest.raises(WeightsDamaged, match="no regular file"):
        read_manifest(tmp_path)
    with pytest.raises(WeightsDamaged, match="no regular file"):
        LocalFile(tmp_path / "config.json")
