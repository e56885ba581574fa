"""What lies beside the code on somebody's machine goes neither into git nor up to Cloud Build."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.dockerfiles import NAMES
from tests.deploy.image_rules import COPIED
from tests.deploy.shell_commands import in_markdown

ROOT = Path(__file__).parents[2]
UPLOADED, SENT = (ROOT / ".gcloudignore").read_text(), (ROOT / ".dockerignore").read_text()
KEPT = (ROOT / ".gitignore").read_text()
README = (ROOT / "deploy/README.md").read_text()
# What deploy/README.md makes or asks for in the repository's folder, and what illo leaves there.
ARTISTS = ("shared/small_artist/transformer/model.gguf", "shared/small_artist/manifest.json")
LEFT_LYING = (
    ".env", ".git/config", ".venv/bin/python", "FLUX.1-Kontext-dev/vae/config.json",
    "data/illo.sqlite", "deploy/terraform/terraform.tfvars", "flux1-kontext-dev-Q8_0.gguf",
    "keys.json", "out/mia.png",
    "shared/__pycache__/jobs.cpython-311.pyc", "weights/q8/transformer/model.gguf",
    "weights/q8/vae/model.safetensors", "worker/model.gguf",
)  # fmt: skip


@pytest.fixture
def gcloud() -> str:
    """Gcloud; without it a laptop skips, and CI fails."""
    found = shutil.which("gcloud")
    if found is None:
        reason = "gcloud is not installed: nobody knows what it would upload"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


def uploaded(gcloud: str, folder: Path, ignore: str | None) -> set[str]:
    """Ask gcloud what it would upload of a folder that has what is read, and what is not."""
    listed = {*NAMES, *COPIED, *ARTISTS, ".dockerignore", "worker/main.py", "shared/gcp/weights.py"}
    files = [*LEFT_LYING, *(name for name in listed if not (ROOT / name).is_dir())]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / ".gitignore").write_text(KEPT)
    if ignore is not None:
        (folder / ".gcloudignore").write_text(ignore)
    own = {"CLOUDSDK_CONFIG": str(folder.parent / "gcloud"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
           "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true"}  # fmt: skip
    told = subprocess.run(
        [gcloud, "meta", "list-files-for-upload"],
        cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(told.stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "illo").mkdir()
    return tmp_path / "illo"


@pytest.mark.slow
def test_a_build_gets_what_it_reads_and_nothing_that_lies_beside_it(
    gcloud: str, folder: Path
) -> None:
    found = uploaded(gcloud, folder, UPLOADED)
    read = {name for name in COPIED if not (ROOT / name).is_dir()}
    assert found >= {*NAMES, *read, ".dockerignore", "worker/main.py", "shared/gcp/weights.py"}
    assert found >= {*ARTISTS}, "illo's own weights"
    assert not found & set(LEFT_LYING)


@pytest.mark.slow
def test_weights_and_keys_stay_also_by_what_git_leaves_out(gcloud: str, folder: Path) -> None:
    found = uploaded(gcloud, folder, None)
    assert found >= {"worker/main.py", *ARTISTS}
    assert found & set(LEFT_LYING) <= {".env"}


@pytest.mark.slow
@pytest.mark.parametrize("line", ["/*", "/deploy/terraform", "__pycache__", "*.gguf"])
def test_a_line_that_is_left_out_is_noticed(gcloud: str, folder: Path, line: str) -> None:
    lines = [each for each in UPLOADED.splitlines() if each not in (line, "*.pyc")]
    assert uploaded(gcloud, folder, "\n".join(lines)) & set(LEFT_LYING)


def test_as_much_is_uploaded_as_an_engine_is_sent() -> None:
    let_in = set(re.findall(r"^!/([^*\n]*)$", UPLOADED, re.MULTILINE))
    assert let_in == {*re.findall(r"^!(.*)$", SENT, re.MULTILINE), *NAMES, ".dockerignore"}


def test_git_leaves_out_what_the_readme_has_lie_in_its_folder(tmp_path: Path) -> None:
    """The files that its commands name: weights as they were downloaded and prepared, and keys."""
    named = set[str]()
    for command in in_markdown(README):
        if [command.program, *command.words[:2]] == ["illo", "weights", "prepare"]:
            named |= {word for word in command.words[2:] if not word.startswith("-")}
        named |= {after for flag, after in zip(command.words, command.words[1:], strict=False)
                  if command.program == "illo" and flag in ("--file", "-o")}  # fmt: skip
    assert len(named) == 6
    (tmp_path / ".gitignore").write_text(KEPT)
    for name in named:
        is_file = Path(name).suffix in (".gguf", ".json")
        file = tmp_path / name if is_file else tmp_path / name / "any"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    asked = ["git", "status", "--porcelain", "--untracked-files=all"]
    told = subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout == "?? .gitignore\n"
