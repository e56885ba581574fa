"""What Terraform itself says of deploy/terraform without a provider: its format, its variables."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.requirements import require_api, require_worker
from shared.settings import Settings
from tests.deploy.service_rules import SET_BY_CLOUD_RUN
from tests.deploy.terraform_files import TERRAFORM, read_tree

DIGEST = "us-east4-docker.pkg.dev/my-stories/illo/api@sha256:" + "0" * 64
GIVEN = {"project": "my-stories", "billing_account": "012345-6789AB-CDEF01"}


@pytest.fixture(scope="module")
def terraform() -> str:
    """Terraform; without it a laptop skips, and CI fails."""
    found = shutil.which("terraform")
    if found is None:
        reason = "terraform is not installed: nothing checked its files' format and variables"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


def test_the_files_are_formatted(terraform: str) -> None:
    asked = [terraform, "fmt", "-check", "-diff", "-recursive", str(TERRAFORM)]
    told = subprocess.run(asked, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.fixture(scope="module")
def values(terraform: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that needs no provider: variables, and what follows from them."""
    folder = tmp_path_factory.mktemp("terraform")
    for name in ("variables.tf", "locals.tf", "indexes.json"):
        shutil.copy(TERRAFORM / name, folder)
    told = ("serving", "indexes", "fields", "latents_days", "push_audience")
    outputs = "\n".join(f'output "{name}" {{\n  value = local.{name}\n}}' for name in told)
    (folder / "outputs.tf").write_text(outputs)
    run(terraform, folder, "init", "-input=false")
    return folder


def run(terraform: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    return subprocess.run(
        [terraform, f"-chdir={folder}", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **own},
    )


def planned(terraform: str, folder: Path, given: dict[str, Any]) -> tuple[int, str]:
    (folder / "given.auto.tfvars.json").write_text(json.dumps(GIVEN | given))
    told = run(terraform, folder, "plan", "-input=false", "-no-color", "-refresh=false")
    return told.returncode, " ".join(told.stderr.replace("│", " ").split())


def test_indexes_and_fields_keep_apart_and_are_all_there(terraform: str, values: Path) -> None:
    (values / "given.auto.tfvars.json").write_text(json.dumps(GIVEN))
    assert run(terraform, values, "apply", "-auto-approve", "-input=false").returncode == 0
    told = json.loads(run(terraform, values, "output", "-json").stdout)
    listed = json.loads((TERRAFORM / "indexes.json").read_text())
    in_order = {json.dumps(index, sort_keys=True) for index in listed["indexes"]}
    made = {json.dumps(index, sort_keys=True) for index in told["indexes"]["value"].values()}
    assert made == in_order
    assert len(told["fields"]["value"]) == len(listed["fieldOverrides"])
    assert told["serving"]["value"] is False
    assert told["latents_days"]["value"] == 3


@pytest.fixture(scope="module")
def worked_out(terraform: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every local value and the dashboard, with a word in the place of what a resource tells."""
    folder = tmp_path_factory.mktemp("worked_out")
    shutil.copy(TERRAFORM / "indexes.json", folder)
    shutil.copy(TERRAFORM / "variables.tf", folder)
    text = "\n".join(file.read_text() for file in sorted(TERRAFORM.glob("*.tf")))
    parts = re.findall(r"^locals \{.*?^\}$", text, re.DOTALL | re.MULTILINE)
    names = re.findall(r"^  (\w+) += ", "\n".join(parts), re.MULTILINE)
    (dashboard,) = re.findall(r"dashboard_json = (jsonencode.*?^  \}\))$", text, re.DOTALL | re.M)
    parts += [f'output "{name}" {{\n  value = local.{name}\n}}' for name in names]
    parts += [f'output "dashboard" {{\n  value = {dashboard}\n}}']
    alone = re.sub(r"\[for \w+ in google_\w+\.\w+ : [\w.]+\]", "[]", "\n".join(parts))
    told = r"(?:data\.)?google_\w+\.\w+(?:\[[^\]]*\])?\.\w+"
    (folder / "all.tf").write_text(re.sub(told, '"stands-for-it"', alone))
    (folder / "given.auto.tfvars.json").write_text(json.dumps(GIVEN))
    for words in (["init"], ["apply", "-auto-approve"]):
        done = run(terraform, folder, *words, "-input=false", "-no-color")
        assert done.returncode == 0, done.stderr
    outputs = json.loads(run(terraform, folder, "output", "-json").stdout)
    return {name: output["value"] for name, output in outputs.items()}


@pytest.mark.parametrize(("name", "require"), [("api", require_api), ("worker", require_worker)])
def test_the_programs_start_with_what_terraform_works_out(
    worked_out: dict[str, Any], name: str, require: Callable[[Settings], None]
) -> None:
    secret = {"ILLO_KEYS": "{}"} if name == "api" else {}
    given = worked_out["shared_environment"] | worked_out[f"{name}_environment"] | secret
    settings = Settings.read(SET_BY_CLOUD_RUN | given)
    require(settings)
    assert settings.price_per_gpu_second == pytest.approx(1.42 / 3600, rel=1e-4)
    assert (settings.workers, settings.retention_days) == (1, 30)


def test_the_dashboard_shows_every_figure_of_the_queue(worked_out: dict[str, Any]) -> None:
    widgets = json.loads(worked_out["dashboard"])["gridLayout"]["widgets"]
    titles = {widget["title"] for widget in widgets}
    assert len(titles) == len(widgets) == len(worked_out["charts"])
    assert set(worked_out["queue_figures"].values()) <= titles


def test_alarms_are_raised_before_the_limits_that_they_watch(worked_out: dict[str, Any]) -> None:
    above = {name: alarm["above"] for name, alarm in worked_out["queue_alarms"].items()}
    assert above == {"oldest-queued": 1800, "failed-starts": 0, "gpu-seconds": 0.8 * 28_800}


def test_the_example_of_variables_is_taken(terraform: str, values: Path) -> None:
    example = (TERRAFORM / "terraform.tfvars.example").read_text()
    given = values / "given.auto.tfvars.json"
    given.unlink(missing_ok=True)
    (values / "terraform.tfvars").write_text(example)
    told = run(terraform, values, "plan", "-input=false", "-no-color", "-refresh=false")
    (values / "terraform.tfvars").unlink()
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"billing_account": None},
        {"api_image": DIGEST, "worker_image": DIGEST, "keys_version": "3"},
        {"worker_cpu": 4, "worker_memory_gib": 16, "worker_max_instances": 3},
        {"worker_cpu": 6, "worker_memory_gib": 24},
        {"worker_cpu": 8, "worker_memory_gib": 16},
        {"worker_gpu": "nvidia-rtx-pro-6000", "worker_cpu": 20, "worker_memory_gib": 80},
        {"api_cpu": 1, "api_memory_mib": 4096},
        {"api_cpu": 2, "api_memory_mib": 8192},
        {"api_cpu": 2, "api_memory_mib": 512},
        {"api_cpu": 4, "api_memory_mib": 2048},
        {"more_settings": {"ILLO_QUOTA_JOBS_PER_DAY": "500"}},
        {"results_days": 365},
        {"github_repository": "me/illo", "alert_emails": ["me@example.com"]},
    ],
    ids=str,
)
def test_variables_take_what_is_meant(terraform: str, values: Path, given: dict[str, Any]) -> None:
    assert planned(terraform, values, given) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"project": "My Stories"}, "project's id"),
        ({"region": "us-east4-a"}, "neither a zone nor a multi-region"),
        ({"region": "US"}, "neither a zone nor a multi-region"),
        ({"billing_account": "mine"}, "gcloud billing accounts list"),
        ({"monthly_budget": 0}, "whole number"),
        ({"instance_price_per_hour": 0}, "costs more than nothing"),
        ({"api_image": DIGEST.replace("@sha256:" + "0" * 64, ":latest")}, "a tag may move"),
        ({"api_image": DIGEST[:-1]}, "a tag may move"),
        ({"worker_image": DIGEST + ":v1"}, "a tag may move"),
        ({"keys_version": "latest"}, "by its number"),
        ({"weights_folder": "/kontext/"}, "plain path"),
        ({"more_settings": {"ILLO_KEYS": "{}"}}, "nothing else here sets"),
        ({"more_settings": {"PATH": "/"}}, "nothing else here sets"),
        ({"worker_gpu": "nvidia-t4"}, "nvidia-rtx-pro-6000"),
        ({"worker_cpu": 2}, "4, 6 or 8"),
        ({"worker_gpu": "nvidia-rtx-pro-6000", "worker_memory_gib": 80}, "20 or more"),
        ({"worker_memory_gib": 64}, "16 to 32 GiB"),
        ({"worker_memory_gib": 15}, "16 to 32 GiB"),
        ({"worker_cpu": 4}, "4 vCPUs at most 16 GiB"),
        ({"worker_cpu": 4, "worker_memory_gib": 17}, "4 vCPUs at most 16 GiB"),
        ({"worker_cpu": 6, "worker_memory_gib": 25}, "6 at most 24"),
        ({"worker_cpu": 8, "worker_memory_gib": 33}, "8 at most 32"),
        ({"worker_min_instances": 2}, "to worker_max_instances"),
        ({"worker_max_instances": 100}, "From 1 to 8"),
        ({"worker_concurrency": 80}, "From 1 to 8"),
        ({"worker_startup_seconds": 3600}, "From 60 to 1800"),
        ({"worker_request_seconds": 600}, "From 900 to 3600"),
        ({"api_cpu": 3}, "1, 2 or 4"),
        ({"api_memory_mib": 128}, "From 512"),
        ({"api_cpu": 1, "api_memory_mib": 4097}, "1 vCPU at most 4096 MiB"),
        ({"api_cpu": 2, "api_memory_mib": 8193}, "2 at most 8192"),
        ({"api_cpu": 4, "api_memory_mib": 2047}, "4 at least 2048"),
        ({"api_cpu": 4}, "4 at least 2048"),
        ({"api_min_instances": 9}, "to api_max_instances"),
        ({"api_max_instances": 0}, "From 1 to 100"),
        ({"api_concurrency": 1}, "From 4 to 256"),
        ({"retention_days": 1}, "2 days or more"),
        ({"results_days": 30}, "A week more"),
        ({"max_queued_hours": 0}, "From 1 to 168"),
        ({"gpu_seconds_per_day": 0}, "More than nothing"),
        ({"alert_emails": ["me"]}, "email address"),
        ({"longest_wait_seconds": 10}, "300 seconds or more"),
        ({"github_repository": "https://github.com/me/illo"}, "OWNER/NAME"),
    ],
    ids=str,
)
def test_variables_refuse_what_would_go_wrong(
    terraform: str, values: Path, given: dict[str, Any], said: str
) -> None:
    status, complaint = planned(terraform, values, given)
    assert status == 1
    assert said in complaint


def test_every_variable_refuses_something() -> None:
    marks = test_variables_refuse_what_would_go_wrong.pytestmark
    (refused,) = (mark.args[1] for mark in marks if mark.name == "parametrize")
    tried = {name for given, _ in refused for name in given}
    declared = {
        block.labels[0] for block in read_tree(TERRAFORM).blocks if block.kind == "variable"
    }
    assert declared <= tried
