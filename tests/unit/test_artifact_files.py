"""The file artifact store beyond the contract: what lies on the disk, damage and kills."""

import errno
import multiprocessing
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.embedded.artifact_store import FileArtifactStore
from shared.errors import (
    ArtifactDamaged,
    ArtifactNotFound,
    ArtifactStoreFull,
    ArtifactStoreUnavailable,
)
from shared.ports import Stored

multiprocessing.set_forkserver_preload([__name__])  # or each child would import it

NAME = "jobs/job_a/a1/0.png"


@pytest.fixture
def store(tmp_path: Path) -> FileArtifactStore:
    return FileArtifactStore(tmp_path / "artifacts")


def put(store: FileArtifactStore, data: bytes = b"bytes", name: str = NAME) -> Stored:
    return store.put(name, data, content_type="image/png")


def payloads(root: Path) -> list[Path]:
    return sorted((root / "artifacts").rglob("*.png"))


def files(root: Path) -> list[Path]:
    return [path for path in (root / "artifacts").rglob("*") if path.is_file()]


def test_an_image_lies_on_the_disk_as_a_file_that_opens(
    store: FileArtifactStore, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    put(store, (tmp_path / "red.png").read_bytes())
    (file,) = payloads(tmp_path)
    assert file.name.startswith("0.")
    assert file.parent == tmp_path / "artifacts/jobs/job_a/a1"
    with Image.open(file) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_overwritten_bytes_are_damaged_and_restored_ones_good_again(
    store: FileArtifactStore, tmp_path: Path
) -> None:
    stored = put(store, b"right")
    (file,) = payloads(tmp_path)
    for wrong in (b"wrong", b"righ", b"right ", b""):
        file.write_bytes(wrong)
        with pytest.raises(ArtifactDamaged, match=NAME):
            store.get(NAME, stored.generation)
    file.write_bytes(b"right")
    assert store.get(NAME, stored.generation) == b"right"


def test_a_payload_that_is_gone_and_a_record_that_is_garbled_are_damage(
    store: FileArtifactStore, tmp_path: Path
) -> None:
    stored = put(store)
    payloads(tmp_path)[0].unlink()
    with pytest.raises(ArtifactDamaged):
        store.get(NAME, stored.generation)
    (record,) = files(tmp_path)
    record.write_text("{}")
    with pytest.raises(ArtifactDamaged):
        store.get(NAME, stored.generation)


def test_deleting_leaves_no_files_and_no_empty_folders(
    store: FileArtifactStore, tmp_path: Path
) -> None:
    put(store)
    put(store, name="jobs/job_b/a1/0.png")
    store.delete(NAME)
    assert len(files(tmp_path)) == 2
    assert not (tmp_path / "artifacts/jobs/job_a").exists()
    store.delete("jobs/job_b/a1/0.png")
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_a_full_disk_is_unavailable_and_leaves_nothing(
    store: FileArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = rf"the disk of {tmp_path / 'artifacts'} is full; make room"
        with pytest.raises(ArtifactStoreFull, match=said):
            put(store)
        assert files(tmp_path) == []
    assert store.get(NAME, put(store).generation) == b"bytes"


def test_a_root_that_is_no_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file")
    store = FileArtifactStore(tmp_path / "artifacts")
    with pytest.raises(ArtifactStoreUnavailable):
        put(store)
    with pytest.raises(ArtifactStoreUnavailable):
        store.get(NAME, 1)


def put_until(root: Path, last_step: int) -> None:
    """Put an artifact, and be killed before the nth time that this touches the disk."""
    store, steps = FileArtifactStore(root / "artifacts"), 0

    def count(event: str, arguments: Any) -> None:
        nonlocal steps
        if event in ("open", "os.mkdir", "os.link", "os.remove"):
            steps += 1
            if steps > last_step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    put(store)
    os._exit(0)


@pytest.mark.slow
def test_a_writer_killed_at_any_step_does_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")  # this process may have threads
    killed, step, ended = 0, 0, None
    while ended != 0:
        root = tmp_path / str(step)
        root.mkdir()
        child = context.Process(target=put_until, args=(root, step))
        child.start()
        child.join(30)
        ended = child.exitcode
        assert ended in (0, -signal.SIGKILL)
        killed += ended != 0
        survivor = FileArtifactStore(root / "artifacts")
        with pytest.raises(ArtifactNotFound):
            survivor.get(NAME, 1)
        assert survivor.get(NAME, put(survivor).generation) == b"bytes"
        survivor.delete(NAME)
        assert files(root) == []
        step += 1
    assert killed > 5  # folders, both files, the link and the tidying
