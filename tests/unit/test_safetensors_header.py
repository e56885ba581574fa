"""The safetensors header: what passes, and what is refused before anything is believed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from shared.errors import WeightsDamaged, WeightsMissing
from worker.pipeline.weights.safetensors_header import MAX_HEADER_BYTES, read_safetensors_header


def written(path: Path, listed: object, *, payload: int = 8, length: int | None = None) -> Path:
    text = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + bytes(payload))
    return path


def a_tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def test_a_file_is_described_as_its_writer_meant_it(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(3, np.float16)}
    save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    header = read_safetensors_header(tmp_path / "x")
    assert dict(header.notes) == {"format": "pt"}
    assert {name: (each.type, each.shape) for name, each in header.tensors.items()} == {
        "a": ("F16", (3,)),
        "b": ("F32", (2, 3)),
    }
    content = (tmp_path / "x").read_bytes()
    for name, tensor in header.tensors.items():
        assert content[tensor.start : tensor.stop] == tensors[name].tobytes()


def test_tensors_without_elements_and_scalars_take_their_place(tmp_path: Path) -> None:
    listed = {
        "none": a_tensor(shape=[0, 4], data_offsets=[0, 0]),
        "scalar": a_tensor(shape=[], data_offsets=[0, 4]),
        "rest": a_tensor(shape=[1], data_offsets=[4, 8]),
    }
    header = read_safetensors_header(written(tmp_path / "x", listed))
    assert header.tensors["scalar"].shape == ()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (b"{ ", "not JSON"),
        pytest.param(b"[" * 50_000, "not JSON", id="deep"),
        ([], "lists no tensors"),
        ({"__metadata__": []}, "__metadata__"),
        ({"a": 1}, "nothing that is known"),
        ({"a": a_tensor(dtype="F31")}, "nothing that is known"),
        ({"a": a_tensor(data_offsets=[0])}, "nothing that is known"),
        ({"a": a_tensor(shape=[3])}, "has 8 bytes, expected 12"),
        ({"a": a_tensor(data_offsets=["a", "b"])}, "cannot be"),
        ({"a": a_tensor(data_offsets=[None, None])}, "cannot be"),
        ({"a": a_tensor(data_offsets=[[1], [2]])}, "cannot be"),
        ({"a": a_tensor(data_offsets="ab")}, "cannot be"),
        ({"a": a_tensor(shape=[2**48 + 1])}, "cannot be"),
        ({"a": a_tensor(shape=[2**48])}, "has 8 bytes, expected"),
        pytest.param({"a": a_tensor(shape=[10**4000] * 2)}, "cannot be", id="vast"),
        pytest.param({"a": a_tensor(shape=[2] * 100_000)}, "cannot be", id="flat"),
        ({"a": a_tensor(shape=[1] * 9)}, "cannot be"),
        ({"a": a_tensor(shape=[1] * 8)}, "has 8 bytes, expected 4"),
        ({"a": a_tensor(shape=[-2], data_offsets=[0, -8])}, "cannot be"),
        ({"a": a_tensor(shape=[2.0])}, "cannot be"),
        ({"a": a_tensor(shape=["2"])}, "cannot be"),
        ({"a": a_tensor(data_offsets=[8, 16])}, "expected"),
        ({"a": a_tensor(), "b": a_tensor()}, "begins at"),
        ({"a": a_tensor(shape=[1], data_offsets=[0, 4])}, "its tensors end at"),
        ({"a": a_tensor(shape=[4], data_offsets=[0, 16])}, "truncated"),
    ],
)
def test_what_is_no_sound_header_is_refused(tmp_path: Path, listed: object, said: str) -> None:
    with pytest.raises(WeightsDamaged, match=r"x: .*download the file again") as caught:
        read_safetensors_header(written(tmp_path / "x", listed))
    assert said in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 2**63])
def test_a_header_of_an_impossible_length_is_not_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(WeightsDamaged, match="not a safetensors file"):
        read_safetensors_header(written(tmp_path / "x", {}, length=length))


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_file_that_is_too_short_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(WeightsDamaged):
        read_safetensors_header(tmp_path / "x")


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        read_safetensors_header(tmp_path / "x")
