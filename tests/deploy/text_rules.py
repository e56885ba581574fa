"""The rules of deploy/terraform about alarms and the text itself; each reports what breaks it."""

import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

from api.queue_event import log as queue_log
from api.queue_event import tell_queue
from shared.settings import Settings
from shared.workers import QueueControl
from tests.deploy.schema_rules import PROVIDER
from tests.deploy.terraform_files import ROOT, TERRAFORM, Tree

ALARMS = (
    "oldest-queued", "failed-starts", "gpu-seconds", "sweep-silent", "pushes-refused",
    "dead-letters",
)  # fmt: skip
OPERATIONS = ROOT / "docs" / "operations.md"


def alarms_watch_what_is_logged(tree: Tree) -> Iterator[str]:
    """Metrics match the event that a sweep logs, and each figure of theirs is in it."""
    event, figures = _queue_event(), tree.local("queue_figures") or {}
    matched = tree.local("queue_event") or ""
    if f'jsonPayload.message=\\"{event["message"]}\\"' not in matched:
        yield f"metrics match {matched}, the event is {event['message']}"
    api = tree.one("google_cloud_run_v2_service.api").get("name")
    if f'service_name=\\"{api}\\"' not in matched:
        yield f"metrics do not match {api}"
    yield from (f"no event has {figure}" for figure in figures if figure not in event)
    metric = tree.one("google_logging_metric.queue")
    if metric.get("value_extractor") != "EXTRACT(jsonPayload.${each.key})":
        yield "a metric extracts something else than its figure"
    for name, alarm in (tree.local("queue_alarms") or {}).items():
        if alarm["figure"] not in figures:
            yield f"{name} watches {alarm['figure']}, which nothing measures"


def every_alarm_tells_somebody_what_to_do(tree: Tree) -> Iterator[str]:
    """All that the table lists are there, are sent to people, and are described."""
    described = OPERATIONS.read_text()
    found = set(tree.local("queue_alarms") or {})
    for policy in tree.of("google_monitoring_alert_policy"):
        found.add(str(policy.get("display_name")).removeprefix("illo: "))
        if policy.get("notification_channels") != "${local.channels}":
            yield f"{policy.address} tells nobody"
        if "docs/operations.md" not in str(policy.at("documentation").get("content")):
            yield f"{policy.address} does not say what to do"
    for alarm in ALARMS:
        if alarm not in found:
            yield f"nothing watches {alarm}"
        if f"### {alarm}" not in described:
            yield f"docs/operations.md does not tell of {alarm}"


def alarms_come_after_what_they_watch(tree: Tree) -> Iterator[str]:
    """A metric of the log is minutes old before Monitoring takes a policy that names it."""
    for metric in tree.of("google_logging_metric"):
        if "serving" in f"{metric.get('count')} {metric.get('for_each')}":
            yield f"{metric.address} is made together with its alarms"
    for policy in tree.of("google_monitoring_alert_policy"):
        conditions = [inner for outer in policy.blocks for inner in outer.blocks]
        watches = any("google_logging_metric." in str(one.get("filter")) for one in conditions)
        when = f"{policy.get('count')} {policy.get('for_each')}"
        if watches and not re.search(r"\bif local\.serving\b|\{local\.serving \?", when):
            yield f"{policy.address} is made seconds after its metric"


def every_variable_is_described_checked_and_used(tree: Tree) -> Iterator[str]:
    """Nobody has to guess what a variable is, or what it may be."""
    text = "\n".join(content for name, content in tree.texts.items() if name != "variables.tf")
    for variable in (block for block in tree.blocks if block.kind == "variable"):
        (name,) = variable.labels
        if not variable.get("description") or not variable.get("type"):
            yield f"{name} is not described"
        if not variable.all("validation"):
            yield f"{name} may be anything"
        if f"var.{name}" not in text:
            yield f"nothing uses {name}"


def every_name_refers_to_something(tree: Tree) -> Iterator[str]:
    """Variables, local values and resources that are named are declared."""
    declared = {block.address for block in tree.provided()}
    declared |= {f"var.{b.labels[0]}" for b in tree.blocks if b.kind == "variable"}
    declared |= {f"local.{name}" for b in tree.blocks if b.kind == "locals" for name in b.arguments}
    for file, text in tree.texts.items():
        if not file.endswith(".tf"):
            continue
        code = re.sub(r"#.*", "", text)
        used = re.findall(r"(?<![\w.])((?:data\.)?google_\w+\.\w+|(?:var|local)\.\w+)", code)
        yield from (f"{file}: there is no {name}" for name in used if name not in declared)


def versions_are_those_that_were_checked(tree: Tree) -> Iterator[str]:
    """The provider is the one whose schema the arguments were held against."""
    (terraform,) = (block for block in tree.blocks if block.kind == "terraform")
    provider = (terraform.at("required_providers").get("google") or {}).get("version")
    major, minor, _ = PROVIDER.rpartition(" ")[2].split(".")
    if provider != f"~> {major}.{minor}":
        yield f"the provider is {provider}, its arguments were held against {PROVIDER}"
    if not re.fullmatch(r">= 1\.(9|\d\d)", str(terraform.get("required_version"))):
        yield "validations that compare variables need Terraform 1.9"


def every_file_opens_with_a_sentence(tree: Tree) -> Iterator[str]:
    """A file says what it is for; README.md names every file."""
    named = (TERRAFORM / "README.md").read_text()
    for file, text in tree.texts.items():
        if not file.endswith(".tf"):
            continue
        first = text.partition("\n")[0]
        if not (first.startswith("# ") and first.rstrip().endswith((".", ":"))):
            yield f"{file} does not say what it is for"
        if f"`{file}`" not in named:
            yield f"README.md does not name {file}"


@cache
def _queue_event() -> Mapping[str, Any]:
    """Take down the event that tells how the queue stands."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    jobs = SimpleNamespace(counts=list, gpu_seconds=lambda since: 0.0)
    workers = SimpleNamespace(now=lambda: now, records=list, control=QueueControl)
    heard: list[logging.LogRecord] = []
    ear = logging.Handler()
    ear.emit = heard.append  # type: ignore[method-assign]
    level = queue_log.level
    queue_log.addHandler(ear)
    queue_log.setLevel(logging.INFO)
    try:
        backends: Any = SimpleNamespace(jobs=jobs, workers=workers)
        tell_queue(backends, Settings())
    finally:
        queue_log.removeHandler(ear)
        queue_log.setLevel(level)
    return vars(heard[0]) | {"message": heard[0].getMessage()}


RULES = (
    alarms_watch_what_is_logged,
    every_alarm_tells_somebody_what_to_do,
    alarms_come_after_what_they_watch,
    every_variable_is_described_checked_and_used,
    every_name_refers_to_something,
    versions_are_those_that_were_checked,
    every_file_opens_with_a_sentence,
)
