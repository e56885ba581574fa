"""The commands of deploy/README.md follow each other: each finds what the ones before have made."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.shell_commands import Command, in_markdown

README = (Path(__file__).parents[2] / "deploy/README.md").read_text()
THE_SHELLS_OWN = {"PATH", "PWD"}
MADE_BY = "projects add-iam-policy-binding $PROJECT --member=serviceAccount:$NUMBER-compute@"

Rule = Callable[[list[Command]], Iterator[str]]


def variables_are_exported_before_they_are_read(commands: list[Command]) -> Iterator[str]:
    """An unset variable is an empty word, and an empty word is another command."""
    known = set(THE_SHELLS_OWN)
    for command in commands:
        named = [word.partition("=") for word in command.words]
        read = set(re.findall(r"\$\{?([A-Za-z_]\w*)", " ".join(command.words)))
        yield from (f"{command}: {name} is not exported" for name in sorted(read - known))
        if command.program == "export":
            known |= {name for name, equals, _ in named if equals}


def images_are_for_cloud_runs_machines(commands: list[Command]) -> Iterator[str]:
    """An engine builds for the machine it is on, and that may be another."""
    built = [each for each in commands if (each.program, *each.words[:1]) == ("docker", "build")]
    for command in built:
        if "--platform=linux/amd64" not in command.words:
            yield f"{command}: for whatever this machine is"
    if len(built) != 2:
        yield f"{len(built)} images"


def the_torch_is_named(commands: list[Command]) -> Iterator[str]:
    """Both ways to build give the worker both arguments, and somebody fills them in."""
    for name in ("TORCH_SPEC", "TORCH_INDEX"):
        for way, given in (("docker", f"{name}=${name}"), ("gcloud", f"_{name}=${name}")):
            words = " ".join(w for each in commands if each.program == way for w in each.words)
            if not re.search(rf"(?<!\w){re.escape(given)}(?!\w)", words):
                yield f"{way} builds without {name}"


def grants_find_whom_they_are_for(commands: list[Command]) -> Iterator[str]:
    """Pub/Sub's account is made before Terraform grants to it; who builds may, before it does."""
    told = [str(command).replace("'", "") for command in commands]
    for before, after in (
        ("gcloud services enable .*pubsub.googleapis.com", "gcloud beta services identity create"),
        ("gcloud beta services identity create --service=pubsub.googleapis.com",
         "terraform -chdir=deploy/terraform apply"),
        (re.escape(f"gcloud {MADE_BY}") + ".* --role=roles/cloudbuild.builds.builder",
         "gcloud builds submit"),
    ):  # fmt: skip
        first, second = (
            next((n for n, one in enumerate(told) if re.match(wanted, one)), None)
            for wanted in (before, after)
        )
        if first is None or second is None or first > second:
            yield f"{before} does not come before {after}"


def dead_letters_are_shown_in_words(commands: list[Command]) -> Iterator[str]:
    """What Pub/Sub keeps is base64; the job's id is in it."""
    pulls = [each for each in commands if each.words[:3] == ("pubsub", "subscriptions", "pull")]
    for command in pulls:
        if "--format=value(message.data.decode(base64))" not in command.words:
            yield f"{command}: nobody can read that"
    if not pulls:
        yield "nobody looks at them"


RULES: tuple[Rule, ...] = (
    variables_are_exported_before_they_are_read,
    images_are_for_cloud_runs_machines,
    the_torch_is_named,
    grants_find_whom_they_are_for,
    dead_letters_are_shown_in_words,
)
MISTAKES: tuple[tuple[Rule, str, str], ...] = (
    (variables_are_exported_before_they_are_read, "export TORCH_SPEC=torch==… ", "export "),
    (variables_are_exported_before_they_are_read, "export NUMBER", "export NUMBERS"),
    (variables_are_exported_before_they_are_read, " BILLING=000000-000000-000000", ""),
    (images_are_for_cloud_runs_machines, "--platform=linux/amd64 --file Dockerfile.api",
     "--file Dockerfile.api"),
    (images_are_for_cloud_runs_machines, "--platform=linux/amd64 --file Dockerfile.worker",
     "--platform=linux/arm64 --file Dockerfile.worker"),
    (the_torch_is_named, "--build-arg TORCH_INDEX=$TORCH_INDEX ", ""),
    (the_torch_is_named, ",_TORCH_SPEC=$TORCH_SPEC", ""),
    (grants_find_whom_they_are_for, " pubsub.googleapis.com\n", "\n"),
    (grants_find_whom_they_are_for, "gcloud beta services identity create", "# "),
    (grants_find_whom_they_are_for, "roles/cloudbuild.builds.builder", "roles/viewer"),
    (dead_letters_are_shown_in_words, '"value(message.data.decode(base64))"', "json"),
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_kept(rule: Rule) -> None:
    assert list(rule(list(in_markdown(README)))) == []


@pytest.mark.parametrize(("rule", "right", "wrong"), MISTAKES)
def test_a_rule_notices_when_it_is_broken(rule: Rule, right: str, wrong: str) -> None:
    assert right in README
    assert list(rule(list(in_markdown(README.replace(right, wrong))))) != []


def test_every_rule_is_broken_once_at_least() -> None:
    assert {rule for rule, _, _ in MISTAKES} == set(RULES)
