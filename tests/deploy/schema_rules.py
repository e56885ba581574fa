"""Hold resources against what the Google provider takes: unknown, missing and repeated things."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.deploy.terraform_files import Block, Tree

_WRITTEN = json.loads(Path(__file__).with_name("provider_schema.json").read_text())
PROVIDER, SCHEMA = _WRITTEN["provider"], _WRITTEN["resources"]
# What Terraform itself understands in every resource.
META = {"count", "for_each", "depends_on", "provider", "lifecycle"}
ASK_FOR_A_QUOTA = ("google_billing_budget", "google_firebaserules_")
_READ = re.compile(r"(?<![\w.])((?:data\.)?google_\w+)\.(\w+)(?:\[[^\]]*\])?\.(\w+)")


def the_provider_takes_it(tree: Tree) -> Iterator[str]:
    """Each argument and block is known, and none that is required is missing."""
    for block in tree.provided():
        known = SCHEMA.get(block.address_kind)
        if known is None:
            yield f"{block.address}: not in provider_schema.json; extract it again"
        else:
            yield from _faults(block, known, block.address)


def what_is_read_of_a_resource_is_told(tree: Tree) -> Iterator[str]:
    """An attribute that an expression names is one that the provider sets."""
    code = "\n".join(text for name, text in tree.texts.items() if name.endswith(".tf"))
    for kind, name, attribute in _READ.findall(code):
        known = SCHEMA.get(kind, {})
        if attribute not in {*known.get("arguments", ()), *known.get("told", ()), "id"}:
            yield f"{kind}.{name} has no {attribute}"


def a_quota_is_named_to_those_that_ask(tree: Tree) -> Iterator[str]:
    """Budgets and rules refuse a person who names no project; the others are not asked that way."""
    named = [block for block in tree.blocks if block.kind == "provider" and block.get("alias")]
    for provider in named:
        given = [provider.get(name) for name in ("user_project_override", "billing_project")]
        if provider.get("alias") != "quota" or given != [True, "${var.project}"]:
            yield f"google.{provider.get('alias')} names no project"
    for block in tree.provided():
        asks = block.address_kind.startswith(ASK_FOR_A_QUOTA)
        if block.get("provider") != ("${google.quota}" if asks else None):
            yield f"{block.address} comes by {block.get('provider')}"


def _faults(block: Block, known: Mapping[str, Any], place: str) -> Iterator[str]:
    arguments, blocks = known["arguments"], known["blocks"]
    yield from (
        f"{place}: no {name}" for name in block.arguments if name not in {*arguments, *META}
    )
    needed = [name for name, need in arguments.items() if need == "required"]
    yield from (f"{place}: {name} is missing" for name in needed if block.get(name) is None)
    for name, inner in blocks.items():
        found = block.all(name)
        if inner["need"] == "required" and not found:
            yield f"{place}: block {name} is missing"
        if len(found) > 1 and not inner["many"]:
            yield f"{place}: more than one block {name}"
    for child in block.blocks:
        if child.kind in blocks:
            yield from _faults(child, blocks[child.kind], f"{place}.{child.kind}")
        elif child.kind not in META:
            yield f"{place}: no block {child.kind}"


RULES = (
    the_provider_takes_it,
    what_is_read_of_a_resource_is_told,
    a_quota_is_named_to_those_that_ask,
)
