"""What every ArtifactStore promises."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from shared.errors import ArtifactError, ArtifactExists, ArtifactNotFound
from shared.ports import Stored
from tests.contract.conftest import Backend

NAME = "jobs/job_a/a1/0.png"


def put(backend: Backend, data: bytes = b"bytes", name: str = NAME) -> Stored:
    return backend.artifacts.put(name, data, content_type="image/png")


@pytest.mark.parametrize("data", [b"bytes", b"", b"\0\r\n" * 100_000])
def test_bytes_come_back_as_they_were_put(backend: Backend, data: bytes) -> None:
    stored = put(backend, data)
    assert (stored.name, stored.bytes) == (NAME, len(data))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert backend.artifacts.get(NAME, stored.generation) == data


def test_the_same_bytes_again_are_the_same_artifact(backend: Backend) -> None:
    assert put(backend) == put(backend)


def test_a_name_is_written_once(backend: Backend) -> None:
    stored = put(backend, b"first")
    with pytest.raises(ArtifactExists):
        put(backend, b"second")
    assert backend.artifacts.get(NAME, stored.generation) == b"first"


def test_another_generation_is_not_found(backend: Backend) -> None:
    stored = put(backend)
    for generation in (0, -1, stored.generation + 1):
        with pytest.raises(ArtifactNotFound):
            backend.artifacts.get(NAME, generation)
    with pytest.raises(ArtifactNotFound):
        backend.artifacts.get("jobs/job_b/a1/0.png", stored.generation)


def test_a_deleted_artifact_is_gone_and_its_name_free(backend: Backend) -> None:
    stored = put(backend, b"first")
    backend.artifacts.delete(NAME)
    backend.artifacts.delete(NAME)
    with pytest.raises(ArtifactNotFound):
        backend.artifacts.get(NAME, stored.generation)
    again = put(backend, b"second")
    assert again.generation != stored.generation
    assert backend.artifacts.get(NAME, again.generation) == b"second"
    with pytest.raises(ArtifactNotFound):
        backend.artifacts.get(NAME, stored.generation)


NEIGHBOURS = ("a/0.png", "a/0.jpeg", "a/0", "a/0.png.meta", "a/0.g1.png", "a/0.png/1", "b/0.png")


def test_artifacts_of_similar_names_do_not_touch(backend: Backend) -> None:
    stored = {name: put(backend, name.encode(), name) for name in NEIGHBOURS}
    for gone in NEIGHBOURS:
        backend.artifacts.delete(gone)
        del stored[gone]
        for name, there in stored.items():
            assert backend.artifacts.get(name, there.generation) == name.encode()


UNSAFE = (
    "", "/", "/etc/passwd", "..", "../x", "a/../x", "a/..", "a//b", "a/", "/a", ".", "./a", "a/./b",
    ".hidden", "a/.hidden", "a\\..\\b", "a\0b", "a\nb", "a\n", "a\x7fb", "a b", "~/x", "a:b", "ü",
    "a" * 151, "a/" * 250 + "aa",
)  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_name_is_refused(backend: Backend, name: str) -> None:
    with pytest.raises(ArtifactError):
        put(backend, name=name)
    with pytest.raises(ArtifactError):
        backend.artifacts.get(name, 1)
    with pytest.raises(ArtifactError):
        backend.artifacts.delete(name)


@pytest.mark.parametrize("name", ["a", "a" * 150, "a/" * 249 + "aa", "_/-", "latents-3", "1.a.b"])
def test_a_safe_name_is_taken(backend: Backend, name: str) -> None:
    assert backend.artifacts.get(name, put(backend, name=name).generation) == b"bytes"


@pytest.mark.parametrize("name", UNSAFE)
def test_no_link_is_made_for_an_unsafe_name(backend: Backend, name: str) -> None:
    with suppress(ArtifactError):
        assert backend.artifacts.url(name, 1) is None


def test_many_megabytes_come_back_as_they_were_put(backend: Backend) -> None:
    data = bytes(range(251)) * 40_000  # more than is sent or read at once
    stored = put(backend, data)
    assert backend.artifacts.get(NAME, stored.generation) == data
    assert put(backend, data) == stored
    with pytest.raises(ArtifactExists):
        put(backend, data[:-1] + b"!")


def at_once(count: int, write: Callable[[int], Stored | None]) -> list[Stored | None]:
    barrier = threading.Barrier(count, timeout=30)

    def begin(number: int) -> Stored | None:
        barrier.wait()
        return write(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_of_five_writers_of_one_name_one_wins(backend: Backend) -> None:
    def write(number: int) -> Stored | None:
        with suppress(ArtifactExists):
            return put(backend, bytes([number]) * 100_000)
        return None

    ends = at_once(5, write)
    ((winner, stored),) = [(n, stored) for n, stored in enumerate(ends) if stored]
    assert backend.artifacts.get(NAME, stored.generation) == bytes([winner]) * 100_000


def test_five_writers_of_the_same_bytes_have_one_artifact(backend: Backend) -> None:
    assert len(set(at_once(5, lambda number: put(backend)))) == 1


def test_a_link_is_a_link_or_nothing(backend: Backend) -> None:
    url = backend.artifacts.url(NAME, put(backend).generation)
    assert url is None or url.startswith("https://")
