"""Read GitHub workflows, and what their steps say."""

from collections.abc import Iterator
from typing import Any

import yaml


def read_workflow(text: str) -> dict[str, Any]:
    """Parse a workflow; YAML takes its `on` for a truth, which is put right."""
    found: dict[str, Any] = {
        "on" if key is True else key: value for key, value in yaml.safe_load(text).items()
    }
    return found


def steps_of(workflow: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each step with the name of its job."""
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, step


def scripts_of(text: str) -> list[str]:
    """List what the steps of a workflow run in a shell."""
    return [step["run"] for _, step in steps_of(read_workflow(text)) if "run" in step]
