"""Nobody builds a worker for Cloud Run without having said which torch: no default runs there."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.workflows import read_workflow, steps_of

ROOT = Path(__file__).parents[2]
SCRIPT = "deploy/images/chosen-torch"
DEPLOY = (ROOT / ".github/workflows/deploy.yml").read_text()
BUILD = (ROOT / "deploy/cloudbuild.yaml").read_text()
NAMES = ("TORCH_SPEC", "TORCH_INDEX")
CHOSEN = {"TORCH_SPEC": "torch==2.13.0", "TORCH_INDEX": "https://example.org/cuda-12"}


def judged(**given: str) -> tuple[int, str]:
    told = subprocess.run(
        ["sh", SCRIPT], cwd=ROOT, env={"PATH": os.environ["PATH"], **given},
        capture_output=True, text=True,
    )  # fmt: skip
    return told.returncode, told.stdout + told.stderr


def test_who_names_both_hears_nothing() -> None:
    assert judged(**CHOSEN) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_one_that_is_empty_ends_the_build_and_is_told_where_to_set_it(name: str) -> None:
    code, told = judged(**CHOSEN | {name: ""})
    (other,) = set(NAMES) - {name}
    assert code == 1
    assert told.startswith(f"{name} is not set: ")
    assert f"WORKER_{name}" in told
    assert f" _{name}" in told
    assert f"{other} is not set" not in told
    assert "CUDA 13" in told


def test_two_that_are_missing_are_told_at_once() -> None:
    code, told = judged()
    assert code == 1
    assert re.findall(r"^(\w+) is not set", told, re.MULTILINE) == list(NAMES)


def the_pipeline_asks(text: str) -> Iterator[str]:
    """The step that builds has only what somebody set, and looks at it before anything else."""
    for _, step in steps_of(read_workflow(text)):
        if "docker build" not in step.get("run", ""):
            continue
        for name in NAMES:
            if step["env"][name] != f"${{{{ vars.WORKER_{name} }}}}":
                yield f"{name} is {step['env'][name]}"
        if step["run"].splitlines()[0] != f"sh {SCRIPT}":
            yield "builds whatever torch there is"


def cloud_build_asks(text: str) -> Iterator[str]:
    """There is no default, and what builds waits for the step that looks."""
    build = yaml.safe_load(text)
    for name in NAMES:
        if build["substitutions"][f"_{name}"]:
            yield f"_{name} has a default"
    asks, *others = build["steps"]
    if (asks.get("entrypoint"), asks["args"]) != ("sh", [SCRIPT]):
        yield f"first comes {asks['id']}"
    if set(asks.get("env", ())) != {f"{name}=$_{name}" for name in NAMES}:
        yield f"looks at {asks.get('env')}"
    yield from (f"{o['id']} does not wait" for o in others if o["waitFor"] != [asks["id"]])


def test_the_pipeline_and_cloud_build_ask() -> None:
    assert list(the_pipeline_asks(DEPLOY)) == []
    assert list(cloud_build_asks(BUILD)) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("vars.WORKER_TORCH_SPEC }}", "vars.WORKER_TORCH_SPEC || 'torch==2.13.0' }}"),
        ("vars.WORKER_TORCH_INDEX }}", "vars.TORCH_INDEX }}"),
        (f"          sh {SCRIPT}\n", ""),
        (f"sh {SCRIPT}", f"sh {SCRIPT} || true"),
    ],
)
def test_a_pipeline_that_guesses_is_noticed(right: str, wrong: str) -> None:
    assert right in DEPLOY
    assert list(the_pipeline_asks(DEPLOY.replace(right, wrong)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('_TORCH_SPEC: ""', "_TORCH_SPEC: torch==2.13.0"),
        ('_TORCH_INDEX: ""', "_TORCH_INDEX: https://example.org"),
        (f"args: [{SCRIPT}]", "args: [deploy/images/trim]"),
        ("TORCH_INDEX=$_TORCH_INDEX]", "TORCH_INDEX=x]"),
        ("waitFor: [torch]", 'waitFor: ["-"]'),
    ],
)
def test_a_cloud_build_that_guesses_is_noticed(right: str, wrong: str) -> None:
    assert right in BUILD
    assert list(cloud_build_asks(BUILD.replace(right, wrong)))
