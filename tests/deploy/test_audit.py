"""What is made of known vulnerabilities: those with a remedy end a deployment, others are told."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy" / "images"
TORCH = {"name": "torch", "version": "2.13.0"}


def audited(found: Path) -> tuple[int, str, str]:
    asked = [sys.executable, str(IMAGES / "audit"), str(found)]
    told = subprocess.run(asked, capture_output=True, text=True)
    return told.returncode, told.stdout, told.stderr


def a_fault(*remedies: str) -> dict[str, Any]:
    return {
        "id": "PYSEC-2026-1",
        "fix_versions": list(remedies),
        "aliases": ["CVE-2026-1"],
        "description": "Something is wrong.",
    }


@pytest.fixture
def found(tmp_path: Path) -> Path:
    return tmp_path / "audit.json"


def write(found: Path, *packages: dict[str, Any]) -> None:
    found.write_text(json.dumps({"dependencies": packages, "fixes": []}))


def test_without_a_known_vulnerability_it_goes_on(found: Path) -> None:
    write(found, {**TORCH, "vulns": []})
    assert audited(found) == (0, "1 packages, 0 known vulnerabilities\n", "")


def test_one_without_a_remedy_is_told_and_stops_nobody(found: Path) -> None:
    write(found, {**TORCH, "vulns": [a_fault()]})
    code, told, _ = audited(found)
    assert code == 0
    assert "torch 2.13.0: PYSEC-2026-1, CVE-2026-1; remedy: none yet" in told


def test_one_with_a_remedy_ends_it_also_beside_others(found: Path) -> None:
    sound = {"name": "tqdm", "version": "1", "vulns": []}
    write(found, {**TORCH, "vulns": [a_fault(), a_fault("2.13.1", "2.14")]}, sound)
    code, told, why = audited(found)
    assert code == 1
    assert "remedy: 2.13.1, 2.14" in told
    assert "constraints.txt" in why


@pytest.mark.parametrize("packages", [[], [{"name": "torch", "skip_reason": "not on PyPI"}]])
def test_what_was_not_audited_is_not_sound(found: Path, packages: list[dict[str, Any]]) -> None:
    write(found, *packages)
    code, _, why = audited(found)
    assert code == 1
    assert why.startswith("not audited: ")


def test_an_auditor_that_could_not_ask_ends_it(found: Path) -> None:
    code, told, why = audited(found)
    assert (code, told) == (1, "")
    assert why.startswith("pip-audit wrote nothing")


@pytest.mark.parametrize(
    ("lies_in", "found"),
    [
        (("path", ".venv/bin"), "path/pip-audit"),
        ((".venv/bin",), ".venv/bin/pip-audit"),
        ((), "false"),
    ],
    ids=["both", "environment", "neither"],
)
def test_a_build_takes_the_auditor_that_there_is(
    lies_in: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    for folder in lies_in:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pip-audit").touch(mode=0o755)
    [looks] = re.findall(r"^auditor\(\) \{.*?^\}$", (IMAGES / "build").read_text(), re.M | re.S)
    told = subprocess.run(
        ["/bin/bash", "-euc", f"{looks}\nauditor"],
        cwd=tmp_path, env={"PATH": f"{tmp_path}/path"}, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.strip().removeprefix(f"{tmp_path}/") == found
    assert ("deploy/images/auditor.txt" in told.stderr) is (not lies_in)


def test_the_auditor_is_of_exact_versions() -> None:
    pins = [line for line in (IMAGES / "auditor.txt").read_text().splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert any(pin.startswith("pip_audit==") for pin in pins)


def test_all_that_is_installed_for_the_images_is_pinned_and_so_audited() -> None:
    """Whatever torch, diffusers and the rest bring along, setuptools included."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {
        canonicalize_name(name): exact
        for name, _, exact in (
            line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
        )
    }
    seen: set[str] = set()
    left = [Requirement("illo[gcp,serve,worker]")]
    while left:
        wanted = left.pop()
        for line in requires(wanted.name) or ():
            needed = Requirement(line)
            extras = wanted.extras or {""}
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in extras):
                continue
            if f"{needed}" in seen:
                continue
            seen.add(f"{needed}")
            try:
                installed = version(needed.name).partition("+")[0]
            except PackageNotFoundError:
                continue
            # of a build of torch for CUDA: which, its index decides
            if not needed.name.startswith(("nvidia-", "cuda-", "triton")):
                assert pins.get(canonicalize_name(needed.name)) == installed, needed.name
            left.append(needed)
    assert len(seen) > 30
