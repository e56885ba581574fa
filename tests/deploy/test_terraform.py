"""deploy/terraform keeps its rules, and each rule notices when it is broken."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.deploy import (
    access_rules,
    provider_schema,
    queue_rules,
    schema_rules,
    service_rules,
    storage_rules,
    text_rules,
)
from tests.deploy.mutations import MUTATIONS, Mutation
from tests.deploy.terraform_files import TERRAFORM, Tree, parse, read_tree

Rule = Callable[[Tree], Iterator[str]]
RULES: dict[str, Rule] = {
    rule.__name__: rule
    for module in (
        access_rules,
        service_rules,
        queue_rules,
        storage_rules,
        text_rules,
        schema_rules,
    )
    for rule in module.RULES
}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return read_tree(TERRAFORM)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_kept(rule: str, tree: Tree) -> None:
    assert list(RULES[rule](tree)) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_rule_notices_when_it_is_broken(mutation: Mutation, tree: Tree) -> None:
    text = tree.texts[mutation.file]
    assert mutation.old in text
    broken = parse({**tree.texts, mutation.file: text.replace(mutation.old, mutation.new)})
    assert list(RULES[mutation.rule](broken)) != []


def test_every_rule_is_broken_once_at_least() -> None:
    assert {mutation.rule for mutation in MUTATIONS} == set(RULES)


# --- the schema itself ---------------------------------------------------------------------------


def test_the_schema_is_of_the_resources_that_are_used_and_no_others(tree: Tree) -> None:
    assert set(schema_rules.SCHEMA) == {block.address_kind for block in tree.provided()}


def test_a_schema_is_read_from_bindings() -> None:
    place = "Docs: {@link https://registry/hashicorp/google/6.50.0/docs/resources/x#%s X#%s}"

    def property(name: str, snake: str, type: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, "type": type, "docs": {"remarks": place % (snake, snake)}, **more}

    inner, outer = "@cdktf/provider-google.x.XInner", "@cdktf/provider-google.x.XConfig"
    many = {"collection": {"kind": "array", "elementtype": {"fqn": inner}}}
    bindings = {
        "types": {
            outer: {
                "kind": "interface",
                "properties": [
                    property("name", "name", {"primitive": "string"}),
                    property("md5Sums", "md5sums", {"primitive": "string"}, optional=True),
                    property(
                        "inner",
                        "inner",
                        {"union": {"types": [{"fqn": "cdktf.IResolvable"}, many]}},
                        optional=True,
                    ),
                ],
            },
            "@cdktf/provider-google.x.X": {
                "kind": "class",
                "properties": [{"name": name} for name in ("name", "nameInput", "selfLink")],
            },
            inner: {
                "kind": "interface",
                "properties": [
                    {"name": "timeOfDay", "type": {"primitive": "string"}, "docs": {"summary": "?"}}
                ],
            },
        }
    }
    assert provider_schema.extract(bindings, ["google_x"]) == {
        "provider": "hashicorp/google 6.50.0",
        "resources": {
            "google_x": {
                "arguments": {"name": "required", "md5sums": "optional"},
                "blocks": {
                    "inner": {
                        "need": "optional",
                        "many": True,
                        "arguments": {"time_of_day": "required"},
                        "blocks": {},
                    }
                },
                "told": ["self_link"],
            }
        },
    }
