"""The rules of the house that no linter knows: who imports what, and what the packages promise."""

import ast
import importlib.metadata
import itertools
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "deploy", "shared", "worker")

# What is imported -> the only modules that may.
ONLY_IN = {
    "google.cloud": ("shared.gcp",),
    # the weights' source: the SDK for objects would copy every byte, http.client does not
    "google.auth": (
        "shared.gcp",
        "shared.identity",
        "shared.embedded",
        "worker.pipeline.weights.cloud_source",
    ),
    "torch": ("worker.pipeline",),
    "diffusers": ("worker.pipeline",),
    "transformers": ("worker.pipeline",),
    "gguf": ("worker.pipeline",),
    "accelerate": ("worker.pipeline",),
    "sqlite3": ("shared.embedded",),
    "gunicorn": ("api.gunicorn_server", "api.gunicorn_worker"),
    "waitress": ("api.http_parser", "api.server", "worker.main"),
    "urllib3": ("deploy", "shared.embedded", "shared.gcp"),
}


@cache
def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), ast.parse(file.read_text())))
    return found


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    strangers = [
        name
        for name, tree in modules()
        if any(within(imported, library) for imported in imports(tree))
        and not any(within(name, place) for place in ONLY_IN[library])
    ]
    assert not strangers


def test_a_module_of_the_google_backends_imports_one_google_sdk() -> None:
    for name, tree in modules():
        sdks = {
            ".".join(imported.split(".")[:3]).removesuffix("_v1")
            for imported in imports(tree)
            if within(imported, "google.cloud")
        }
        assert len(sdks) <= 1, f"{name} imports {sorted(sdks)}"


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    }
    assert readers <= {"shared.settings"}


def test_there_is_one_broad_except() -> None:
    broad = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    }
    assert broad <= {"worker.run_job"}


def test_every_module_says_in_a_sentence_what_it_is_for() -> None:
    silent = [name for name, tree in modules() if tree.body and not ast.get_docstring(tree)]
    assert not silent


def test_nothing_else_that_is_installed_provides_our_packages() -> None:
    providers = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(providers.get(package, ["illo"])) == {"illo"}


def test_the_distribution_lists_every_package_and_is_never_uploaded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }
    assert found == listed
    assert "Private :: Do Not Upload" in project["project"]["classifiers"]


def test_every_dependency_is_pinned_exactly() -> None:
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(pin.count("==") == 1 for pin in pins)
    names = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    assert {need.split(">=")[0].lower() for need in wanted} <= names
