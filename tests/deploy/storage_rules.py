"""The rules of deploy/terraform about what is stored; each reports what breaks it."""

import json
from collections.abc import Iterator
from typing import Any

from shared.artifact_names import image_name, latents_name
from shared.gcp import indexes
from shared.scenes import ImageFormat
from tests.deploy.terraform_files import Block, Tree

RESULTS, WEIGHTS = "google_storage_bucket.results", "google_storage_bucket.weights"
LATENTS = [latents_name("job_a", 1, step) for step in range(1, 401)]
# What people may still look at, by the names that the code gives: images, uploads, batches' scenes.
SHOWN = [
    *(image_name("job_a", 2, index, ending.value) for index in (0, 3) for ending in ImageFormat),
    "assets/0f3a/up_b.png",
    "batches/bat_c/scenes.jsonl",
]


def indexes_are_those_of_the_code(tree: Tree) -> Iterator[str]:
    """The file is what `illo indexes` prints, and everything in it is made."""
    listed = json.loads(tree.texts["indexes.json"])
    if listed != indexes.document():
        yield "indexes.json is not what `illo indexes` prints now"
    made = tree.one("google_firestore_index.composite")
    wanted: list[tuple[Any, Any]] = [
        (tree.local("firestore"), '${jsondecode(file("${path.module}/indexes.json"))}'),
        (made.get("for_each"), "${local.indexes}"),
        (made.get("collection"), "${each.value.collectionGroup}"),
        (made.get("query_scope"), "${each.value.queryScope}"),
        (made.at("fields").get("field_path"), "${fields.value.fieldPath}"),
        (made.at("fields").get("order"), "${try(fields.value.order, null)}"),
        (made.at("fields").get("array_config"), "${try(fields.value.arrayConfig, null)}"),
    ]
    yield from (f"an index has {found}, not {wish}" for found, wish in wanted if found != wish)


def fields_are_exempt_and_expire_as_the_code_says(tree: Tree) -> Iterator[str]:
    """Overrides take fields out of the indexes, and say which instant ends a document."""
    made = tree.one("google_firestore_field.override")
    config = made.at("index_config")
    wanted: list[tuple[Any, Any]] = [
        (made.get("for_each"), "${local.fields}"),
        (made.get("field"), "${each.value.fieldPath}"),
        (made.get("collection"), "${each.value.collectionGroup}"),
        (config.at("indexes").each, "${each.value.indexes}"),
        (made.at("ttl_config").each, "${try(each.value.ttl, false) ? [true] : []}"),
    ]
    yield from (f"a field has {found}, not {wish}" for found, wish in wanted if found != wish)
    if not made.all("index_config"):
        yield "without index_config a field keeps the indexes that Firestore makes by itself"
    database = tree.one("google_firestore_database.illo")
    if database.get("type") != "FIRESTORE_NATIVE":
        yield "the database is not in native mode"
    if database.get("delete_protection_state") != "DELETE_PROTECTION_ENABLED":
        yield "the database could be deleted by an apply"


def latents_do_not_pile_up(tree: Tree) -> Iterator[str]:
    """A rule deletes them by their names, and later than anybody could go on from them."""
    rules = [rule for rule in _deleting(tree.one(RESULTS)) if rule.each is None]
    for name in LATENTS:
        if not any(_matches(rule, name, tree) for rule in rules):
            yield f"{name} is never deleted"
    for rule in rules:
        if rule.at("condition").get("age") != "${local.latents_days}":
            yield "latents go at another age than when nobody can need them"
    if tree.local("latents_days") != "${ceil(var.max_queued_hours / 24) + 2}":
        yield "latents may be needed for longer than they are kept"


def nothing_that_is_shown_goes_by_age(tree: Tree) -> Iterator[str]:
    """Only the sweep deletes images, uploads and batches, unless the operator gives an age."""
    for rule in _deleting(tree.one(RESULTS)):
        if rule.each is not None:
            if rule.each != "${var.results_days == null ? [] : [var.results_days]}":
                yield "images go by age though nobody said so"
            continue
        yield from (f"{name} goes by age" for name in SHOWN if _matches(rule, name, tree))
    if (
        tree.variable("results_days").get(
            "default",
        )
        is not None
    ):
        yield "images go by age unless somebody says otherwise"
    colder = [rule for rule in tree.one(RESULTS).all("lifecycle_rule") if _moves(rule)]
    for name in SHOWN:
        if not any(_matches(rule, name, tree) for rule in colder):
            yield f"{name} stays where it is dearest"


def weights_are_kept_while_they_are_read(tree: Tree) -> Iterator[str]:
    """Replaced weights stay for a while; nothing deletes present ones."""
    bucket = tree.one(WEIGHTS)
    if bucket.at("versioning").get("enabled") is not True:
        yield "replaced weights vanish under a worker that loads them"
    for rule in _deleting(bucket):
        if (rule.at("condition").get("days_since_noncurrent_time") or 0) < 7:
            yield "present weights, or those just replaced, are deleted"


def _deleting(bucket: Block) -> list[Block]:
    rules = bucket.all("lifecycle_rule")
    return [rule for rule in rules if rule.at("action").get("type") == "Delete"]


def _moves(rule: Block) -> bool:
    return bool(rule.at("action").get("type") == "SetStorageClass")


def _matches(rule: Block, name: str, tree: Tree) -> bool:
    """Say whether a lifecycle rule is meant for objects of a name, once they are old enough."""
    condition = rule.at("condition")
    beginnings = condition.get("matches_prefix") or [""]
    endings = condition.get("matches_suffix") or [""]
    if isinstance(endings, str):
        endings = tree.local(endings.removeprefix("${local.").removesuffix("}")) or []
    return name.startswith(tuple(beginnings)) and name.endswith(tuple(endings))


RULES = (
    indexes_are_those_of_the_code,
    fields_are_exempt_and_expire_as_the_code_says,
    latents_do_not_pile_up,
    nothing_that_is_shown_goes_by_age,
    weights_are_kept_while_they_are_read,
)
