"""The folder for a bucket's small files: a start removes what killed ones have left, no other."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from worker.pipeline.weights import small_folder
from worker.pipeline.weights.small_folder import PREFIX, SmallFolder, remove_abandoned

OWNER = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from worker.pipeline.weights.small_folder import SmallFolder
folder = SmallFolder()
(folder.path / "config.json").write_text("{}")
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def an_owner(scratch: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that makes itself a folder; give both."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(scratch)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    return owner, Path(owner.stdout.readline().strip())


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(
    scratch: Path,
) -> None:
    killed, left = an_owner(scratch)
    living, used = an_owner(scratch)
    try:
        own = SmallFolder()
        assert {left, used, own.path} == set(scratch.iterdir())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        remove_abandoned()
        assert {used, own.path} == set(scratch.iterdir())
        assert (used / "config.json").exists()
    finally:
        for owner in (killed, living):
            owner.kill()
            owner.wait()
            assert owner.stdout is not None
            owner.stdout.close()
    own.remove()
    SmallFolder().remove()
    assert list(scratch.iterdir()) == []


def test_what_is_no_folder_of_ours_stays(
    scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    (scratch / f"{PREFIX}link").symlink_to(elsewhere)
    (scratch / f"{PREFIX}file").touch()
    (scratch / "another").mkdir()
    SmallFolder().remove()
    assert (elsewhere / "kept").exists()
    assert len(list(scratch.iterdir())) == 3


def test_one_that_somebody_removes_before_it_is_locked_is_made_again(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, removed = small_folder._taken, []

    def removed_first(folder: int) -> bool:
        if not removed:
            [made] = scratch.iterdir()
            made.rmdir()
            removed.append(made)
        return taken(folder)

    monkeypatch.setattr(small_folder, "_taken", removed_first)
    own = SmallFolder()
    assert own.path.is_dir()
    assert own.path not in removed


def test_removed_twice_is_removed(scratch: Path) -> None:
    own = SmallFolder()
    own.remove()
    own.remove()
    assert list(scratch.iterdir()) == []
