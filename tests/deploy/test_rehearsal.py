"""Every command that a document tells somebody to give exists, and takes the flags it is given."""

import os
import shutil
from pathlib import Path

import pytest

from tests.deploy.rehearsal import faults_of
from tests.deploy.shell_commands import REHEARSED, Command, Unreadable, in_markdown, in_shell
from tests.deploy.workflows import scripts_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("deploy/README.md", "docs/operations.md", "deploy/terraform/README.md")
WORKFLOW = ".github/workflows/deploy.yml"
OTHERS = ("gcloud", "terraform", "docker")  # illo is always there


def documented(name: str) -> list[Command]:
    return list(in_markdown((ROOT / name).read_text()))


def needing(program: str) -> None:
    """Go on if a program is there; else a laptop skips, and CI fails."""
    if shutil.which(program) is None:
        reason = f"{program} is not installed: its commands are not rehearsed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


# --- the documents --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_of_illo_are_right(name: str) -> None:
    assert faults_of([command for command in documented(name) if command.program == "illo"]) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", OTHERS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_of_others_are_right(name: str, program: str) -> None:
    wanted = [command for command in documented(name) if command.program == program]
    if wanted:
        needing(program)
    assert faults_of(wanted) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["gcloud", "docker"])
def test_the_commands_of_the_pipeline_are_right(program: str) -> None:
    needing(program)
    scripts = scripts_of((ROOT / WORKFLOW).read_text())
    found = [each for script in scripts for each in in_shell(script) if each.program == program]
    assert found
    assert faults_of(found) == []


def test_all_is_rehearsed_that_a_deployment_needs() -> None:
    told = [str(command) for command in documented("deploy/README.md")]
    for wanted in (
        "gcloud projects create", "gcloud config set project", "gcloud storage buckets create",
        "terraform -chdir=deploy/terraform init", "terraform -chdir=deploy/terraform apply",
        "docker build --platform=linux/amd64 --file Dockerfile.api",
        "docker build --platform=linux/amd64 --file Dockerfile.worker",
        "gcloud beta services identity create", "gcloud builds submit",
        "docker push", "illo weights prepare", "illo weights push", "illo weights verify",
        "illo keys new", "gcloud secrets versions add", "illo draw",
        "gcloud run services update-traffic", "illo keys revoke", "illo queue drain",
        "gcloud pubsub topics publish", "gcloud billing budgets list",
    ):  # fmt: skip
        assert any(command.startswith(wanted) for command in told), wanted


# --- the rehearsal itself notices -----------------------------------------------------------------

WRONG = {
    "illo weights push weights/q8 gs://b/x --replce": "No such option",
    "illo weights push weights/q8": "place is missing",
    "illo weights pusch weights/q8 gs://b/x": "there is no such command as pusch",
    "illo queue drian": "'drian' is no choice",
    "illo keys new --file keys.json": "tenant is missing",
    "illo keys new --tenant me --scope write --scope owner": "'owner' is no choice",
    "illo status ID more": "'more' is nothing that it takes",
    "illo": "there is no such command as that",
}
WRONG_OTHERS = {
    "gcloud run services update illo-worker --minimum=1": "there is no flag --minimum",
    "gcloud run services update illo-worker --min": "--min needs a value",
    "gcloud storage buckets update gs://x --versioning=on": "--versioning takes no value",
    "gcloud run services updates illo-worker": "there is no such command",
    "gcloud run services": "there is no such command",
    "gcloud billing budgets list": "--billing-account is missing",
    "gcloud pubsub topics publish": "TOPIC is missing",
    "gcloud run services update illo-worter --min=1": "Terraform names nothing illo-worter",
    "gcloud secrets versions disable 1 --secret=illo-key": "Terraform names nothing illo-key",
    "terraform aply": "there is no such command",
    "terraform apply -auto-aprove": "there is no flag -auto-aprove",
    "terraform -chdir=deploy/terafrom apply": "there is nothing of ours in deploy/terafrom",
    "terraform output -raw api_uri": "there is no output api_uri",
    "docker bild .": "there is no such command",
    "docker build --dockerfile Dockerfile.api .": "there is no flag --dockerfile",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_of_illo_is_noticed(line: str) -> None:
    [fault] = faults_of(list(in_shell(line)))
    assert WRONG[line] in fault


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", WRONG_OTHERS)
def test_a_wrong_command_of_others_is_noticed(line: str) -> None:
    needing(line.split()[0])
    faults = faults_of(list(in_shell(line)))
    assert len(faults) == 1
    assert WRONG_OTHERS[line] in faults[0]


PLANTED = [
    ("illo weights push weights/q8 $WEIGHTS", "illo weights push weights/q8 $WEIGHTS --fast"),
    ("illo queue resume\n```", "illo queue continue\n```"),
    ("`illo queue pause`", "`illo queue stop`"),
    ("gcloud secrets versions add", "gcloud secrets version add"),
    ("output -raw api_url", "output -raw url"),
    ("docker push $REGISTRY/api", "docker puhs $REGISTRY/api"),
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("right", "planted"), PLANTED)
def test_a_mistake_that_is_planted_in_a_copy_is_noticed(right: str, planted: str) -> None:
    text = (ROOT / "deploy/README.md").read_text()
    assert right in text
    sound = {str(command) for command in in_markdown(text)}
    copied = [
        command
        for command in in_markdown(text.replace(right, planted))
        if str(command) not in sound
    ]
    for command in copied:
        if command.program in OTHERS:
            needing(command.program)
    assert copied
    assert len(faults_of(copied)) >= 1


# --- how commands are read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("illo queue pause # why", ["illo queue pause"]),
        ("ILLO_KEY=x illo queue && illo jobs", ["illo queue", "illo jobs"]),
        ("illo draw 'a; b' \\\n  --seed 3", ["illo draw 'a; b' --seed 3"]),
        ("export A=$(illo jobs)", ["illo jobs", "export A=SUBSTITUTED"]),
        ('cp "$(illo a $(illo b))" c', ["illo b", "illo a SUBSTITUTED", "cp SUBSTITUTED c"]),
        ("illo indexes > x.json", ["illo indexes"]),
        ("for i in a b; do docker push $i; done", ["docker push '$i'"]),
        ("illo jobs | cp - x", ["illo jobs", "cp - x"]),
        ("# nothing", []),
    ],
)  # fmt: skip
def test_a_script_is_read_as_a_shell_would(script: str, commands: list[str]) -> None:
    read = [str(found) for found in in_shell(script)]
    known = [found for found in read if found.split()[0] not in ("for", "done")]
    assert known == commands


def test_a_document_is_read_in_blocks_and_in_sentences() -> None:
    text = "See `illo queue\npause`, `x`.\n\n```\nillo jobs\n```\n\n```\ncost = 3 × price\n```\n"
    assert [str(found) for found in in_markdown(text)] == ["illo jobs", "illo queue pause"]


@pytest.mark.parametrize("line", ["frobnicate --all", "illo status $(illo jobs"])
def test_what_nobody_can_check_is_noticed(line: str) -> None:
    with pytest.raises(Unreadable):
        list(in_markdown(f"```\nillo jobs\n{line}\n```\n"))


def test_every_program_that_is_rehearsed_is_used() -> None:
    used = {command.program for name in DOCUMENTS for command in documented(name)}
    assert used >= set(REHEARSED)
