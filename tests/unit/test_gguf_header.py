"""The bounded GGUF reader: what it reads, and everything it refuses, on both sides of a limit."""

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import WeightsDamaged, WeightsError, WeightsMissing
from tests.unit.gguf_files import (
    ARRAY,
    BF16,
    FLOAT32,
    Q8_0,
    STRING,
    UINT32,
    Info,
    array,
    gguf_bytes,
    string,
    text,
    uint32,
)
from worker.pipeline.weights.gguf_cursor import MAX_HEADER_BYTES, MAX_STRING_BYTES
from worker.pipeline.weights.gguf_header import (
    MAX_ARRAY_ELEMENTS,
    MAX_KEYS,
    MAX_TENSORS,
    GgufHeader,
    read_header,
)

WHOLE = gguf_bytes(
    [
        Info(name="img_in.weight", dims=(64, 3), type=BF16),
        Info(name="a.weight", dims=(64, 2), type=Q8_0, offset=384),
        Info(name="a.bias", dims=(3,), offset=544),
    ],
    keys=[
        ("general.architecture", string("flux")),
        ("words", array(STRING, 2, text("a") + text("bc"))),
        ("scores", array(FLOAT32, 2, bytes(8))),
        ("general.alignment", uint32(32)),
    ],
    payload=544 + 12,
)


def test_the_bounds_are_those_that_docs_promise() -> None:
    assert (MAX_TENSORS, MAX_KEYS, MAX_ARRAY_ELEMENTS) == (4_096, 1_024, 1_000_000)
    assert (MAX_STRING_BYTES, MAX_HEADER_BYTES) == (64 * 1024, 8 * 1024 * 1024)


def read(tmp_path: Path, content: bytes) -> GgufHeader:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_header(path)


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(WeightsDamaged) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert "model.gguf: " in message
    assert message.endswith("; download or convert the file again")
    return message


@pytest.mark.parametrize("version", [2, 3])
def test_a_whole_file_is_read(tmp_path: Path, version: int) -> None:
    header = read(tmp_path, WHOLE[:4] + struct.pack("<I", version) + WHOLE[8:])
    assert header.version == version
    assert header.alignment == 32
    assert header.metadata == {"general.architecture": "flux", "general.alignment": 32}
    assert list(header.tensors) == ["img_in.weight", "a.weight", "a.bias"]


def test_shapes_are_decoded_and_rows_come_first(tmp_path: Path) -> None:
    header = read(tmp_path, WHOLE)
    image_input, matrix = header.tensors["img_in.weight"], header.tensors["a.weight"]
    # in bytes a row of 64 BF16 is 128 long, which is what makes others take it for Depth-dev
    assert (image_input.shape, image_input.type.name, image_input.bytes) == ((3, 64), "BF16", 384)
    assert (matrix.shape, matrix.type.name, matrix.bytes) == ((2, 64), "Q8_0", 136)


def test_offsets_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    header = read(tmp_path, WHOLE)
    last = header.tensors["a.bias"]
    assert last.offset + last.bytes == len(WHOLE)
    assert all(tensor.offset % 32 == 0 for tensor in header.tensors.values())


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="no such file"):
        read_header(tmp_path / "nothing.gguf")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsDamaged, match="cannot be read"):
        read_header(tmp_path)


@pytest.mark.parametrize("end", [0, 3, 4, 20, 24, 60, 200, len(WHOLE) - 100, len(WHOLE) - 1])
def test_a_truncated_file_is_refused(tmp_path: Path, end: int) -> None:
    assert "past the end of the file" in refused(tmp_path, WHOLE[:end])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (gguf_bytes(version=1), "GGUF version 1"),
        (gguf_bytes(version=4), "GGUF version 4"),
        (gguf_bytes(version=3 << 24), "big-endian"),
        (gguf_bytes(tensor_count=2**63), f"more than {MAX_TENSORS}"),
        (gguf_bytes(key_count=2**32), f"more than {MAX_KEYS}"),
        (gguf_bytes(keys=[(b"\xff\xfe", uint32(1))]), "not UTF-8"),
        (gguf_bytes(keys=[("k", uint32(1)), ("k", uint32(1))]), "'k' appears twice"),
        (gguf_bytes(keys=[("k", struct.pack("<I", 99))]), "unknown type 99"),
        (gguf_bytes(keys=[("k", array(99, 1, bytes(8)))]), "array of the unknown type 99"),
        (gguf_bytes(keys=[("k", array(ARRAY, 1, bytes(64)))]), "array of arrays"),
        (gguf_bytes(keys=[("k", array(UINT32, 1_000_000))]), "past the end"),
        (gguf_bytes(keys=[("k", array(STRING, 1_000_000))]), "past the end"),
        (gguf_bytes(keys=[("k", struct.pack("<IQ", STRING, 2**62))]), "the length of"),
        (gguf_bytes([Info(name="w", dims=())]), "no elements"),
        (gguf_bytes([Info(name="w", dims=(32, 0))]), "no elements"),
        (gguf_bytes([Info(name="w", dims=(1,) * 5)]), "more than 4"),
        (gguf_bytes([Info(name="w", dims=(2**63,) * 4)]), "past the end"),
        (gguf_bytes([Info(name="w", type=4)], payload=999), "unknown type 4"),
        (gguf_bytes([Info(name="w", dims=(33,), type=Q8_0)], payload=99), "whole Q8_0 blocks"),
        (gguf_bytes([Info(name="w", offset=16)], payload=999), "not aligned to 32"),
        (gguf_bytes([Info(name="w", offset=2**63)], payload=999), "past the end"),
        (gguf_bytes([Info(name="w"), Info(name="w", offset=256)], payload=999), "appears twice"),
        (gguf_bytes([Info(name="w"), Info(name="v", offset=224)], payload=999), "overlap"),
        (gguf_bytes([Info(name="w"), Info(name="v")], payload=999), "overlap"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refused(tmp_path, content)


def test_the_message_names_the_tensor(tmp_path: Path) -> None:
    content = gguf_bytes([Info(name="blocks.7.weight")], payload=255)
    assert "tensor 'blocks.7.weight' ends at" in refused(tmp_path, content)


@pytest.mark.parametrize("alignment", [0, 3, 48])
def test_an_alignment_that_is_no_power_of_two_is_refused(tmp_path: Path, alignment: int) -> None:
    content = gguf_bytes(keys=[("general.alignment", uint32(alignment))])
    assert "not a power of two" in refused(tmp_path, content)


def test_an_alignment_that_is_no_number_is_refused(tmp_path: Path) -> None:
    content = gguf_bytes(keys=[("general.alignment", string("32"))])
    assert "not a power of two" in refused(tmp_path, content)


def test_tensors_may_touch(tmp_path: Path) -> None:
    infos = [Info(name="w"), Info(name="v", offset=256)]
    assert len(read(tmp_path, gguf_bytes(infos, payload=512)).tensors) == 2


def test_the_number_of_tensors_has_a_limit(tmp_path: Path) -> None:
    def infos(count: int) -> list[Info]:
        return [Info(name=str(i), dims=(1,), offset=32 * i) for i in range(count)]

    most = read(tmp_path, gguf_bytes(infos(MAX_TENSORS), payload=32 * MAX_TENSORS))
    assert len(most.tensors) == MAX_TENSORS
    over = gguf_bytes(infos(MAX_TENSORS + 1), payload=32 * MAX_TENSORS + 32)
    assert f"more than {MAX_TENSORS}" in refused(tmp_path, over)


def test_the_number_of_keys_has_a_limit(tmp_path: Path) -> None:
    keys = [(f"k{i}", uint32(i)) for i in range(MAX_KEYS + 1)]
    assert len(read(tmp_path, gguf_bytes(keys=keys[:-1])).metadata) == MAX_KEYS
    assert f"more than {MAX_KEYS}" in refused(tmp_path, gguf_bytes(keys=keys))


def test_strings_have_a_limit(tmp_path: Path) -> None:
    longest = "x" * MAX_STRING_BYTES
    assert read(tmp_path, gguf_bytes(keys=[("k", string(longest))])).metadata["k"] == longest
    refused(tmp_path, gguf_bytes(keys=[("k", string(longest + "x"))]))
    refused(tmp_path, gguf_bytes(keys=[(longest + "x", uint32(1))]))


def test_arrays_have_a_limit(tmp_path: Path) -> None:
    def one(length: int) -> bytes:
        return gguf_bytes(keys=[("k", array(UINT32, length, bytes(4 * length)))])

    assert read(tmp_path, one(MAX_ARRAY_ELEMENTS)).metadata == {}
    assert f"more than {MAX_ARRAY_ELEMENTS}" in refused(tmp_path, one(MAX_ARRAY_ELEMENTS + 1))


def test_the_header_as_a_whole_has_a_limit(tmp_path: Path) -> None:
    def keys(count: int) -> bytes:
        return gguf_bytes(
            keys=[(f"k{i}", array(FLOAT32, 10**6, bytes(4 * 10**6))) for i in range(count)]
        )

    read(tmp_path, keys(2))
    assert f"past {MAX_HEADER_BYTES} bytes" in refused(tmp_path, keys(3))


def test_the_worst_header_within_the_limits_takes_a_second_and_little_memory(
    tmp_path: Path,
) -> None:
    # a million empty strings are the most work that 8 MiB can ask for
    count = MAX_HEADER_BYTES // 8 - 100_000
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(keys=[("k", array(STRING, count, bytes(8 * count)))]))
    began = time.process_time()
    read_header(path)
    assert time.process_time() - began < 2.0  # a second on its own; the machine may be shared
    tracemalloc.start()
    names = [(f"{i:06}" + "x" * 60_000, uint32(1)) for i in range(130)]
    read(tmp_path, gguf_bytes(keys=names))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused_as_weights(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WeightsError):
        read(tmp_path, b"GGUF\3\0\0\0" + content)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    end=st.integers(0, len(WHOLE)),
)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path: Path, changes: list[tuple[int, int]], end: int
) -> None:
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    try:
        header = read(tmp_path, bytes(content[:end]))
    except WeightsError:
        return
    ends = [tensor.offset + tensor.bytes for tensor in header.tensors.values()]
    assert max(ends, default=0) <= end
