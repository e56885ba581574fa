"""Which indexes Firestore needs for the queries of `shared.gcp.shapes`, and which it must not keep.

The rules are Firestore's. A query is answered from one index: what is equal, in any order; then
what it is ordered by; then what else is compared; then what is summed up. Its own index of a single
field serves those that ask for nothing else.
https://firebase.google.com/docs/firestore/query-data/index-overview

Equalities alone could be answered by merging indexes of single fields. They get an index of their
own here: a merge reads, and within a transaction locks, all that is equal in one field alone, such
as the waiting jobs of everybody.
"""

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from shared.gcp import shapes
from shared.gcp.shapes import Shape

ASCENDING, DESCENDING, CONTAINS = "ASCENDING", "DESCENDING", "CONTAINS"

# Firestore indexes each field by itself, rising and falling. Hardly any query asks for one field
# alone, and each such index would be written at every heartbeat; those of instants would moreover
# gather all writes in one place, and those of whole documents are large. So none is kept in these
# collections but those that a shape needs.
UNINDEXED = (
    shapes.ANSWERS,
    shapes.ASSETS,
    shapes.BATCHES,
    shapes.JOBS,
    shapes.SCENES,
    shapes.SUBMISSIONS,
    shapes.WORKERS,
)
# Firestore removes these by itself, within a day of that instant.
TIME_TO_LIVE = {shapes.ANSWERS: "expire_at"}

Way = tuple[str, str]  # a field, and how it is sorted or that it is searched for a member
Index = tuple[str, tuple[Way, ...]]  # a collection; its fields


def index_of(shape: Shape) -> Index:
    """Find the index that a shape is answered from; one of a single field Firestore can keep."""
    ordered = [_way(name) for name in shape.order]
    placed = {field for field, _ in ordered}
    # what is compared without an order Firestore orders by itself, as the last that was named
    last = ordered[-1][1] if ordered else ASCENDING
    compared = sorted({field for field, _ in shape.compared} - placed)
    ordered += [(field, last) for field in compared]
    placed.update(compared)
    summed = [(field, ASCENDING) for field in shape.sums if field not in placed]
    same = [(field, ASCENDING) for field in (*shape.equal, *shape.among)]
    lists = [(field, CONTAINS) for field in shape.member]
    return shape.collection, (*same, *lists, *ordered, *summed)


def composite(declared: Iterable[Shape] | None = None) -> list[Index]:
    """List the indexes of several fields that all shapes need, each once, in a steady order."""
    return [index for index in _indexes(declared) if len(index[1]) > 1]


def single(declared: Iterable[Shape] | None = None) -> list[tuple[str, Way]]:
    """List the fields that shapes need an index of alone, by collection."""
    return [(collection, ways[0]) for collection, ways in _indexes(declared) if len(ways) == 1]


def document() -> dict[str, Any]:
    """Write indexes and exemptions as Firebase and Terraform read them."""
    return {
        "indexes": [
            {
                "collectionGroup": collection,
                "queryScope": "COLLECTION",
                "fields": [{"fieldPath": field, **_kind(way)} for field, way in ways],
            }
            for collection, ways in composite()
        ],
        "fieldOverrides": [
            *(
                {"collectionGroup": collection, "fieldPath": "*", "indexes": []}
                for collection in UNINDEXED
            ),
            *(
                {
                    "collectionGroup": collection,
                    "fieldPath": field,
                    "indexes": [{"queryScope": "COLLECTION", **_kind(way)}],
                }
                for collection, (field, way) in single()
            ),
            *(
                {"collectionGroup": collection, "fieldPath": field, "ttl": True, "indexes": []}
                for collection, field in TIME_TO_LIVE.items()
            ),
        ],
    }


def commands(database: str) -> Iterator[str]:
    """Write the same as commands of gcloud; they do not wait until an index is built."""
    for collection, ways in composite():
        fields = (f"--field-config=field-path={field},{_config(way)}" for field, way in ways)
        yield _command("indexes composite create", collection, database, *fields, "--async")
    for collection in UNINDEXED:
        yield _command("indexes fields update", collection, database, "*", "--disable-indexes")
    for collection, (field, way) in single():
        index = f"--index={_config(way)}"
        yield _command("indexes fields update", collection, database, field, index)
    for collection, field in TIME_TO_LIVE.items():
        yield _command("fields ttls update", collection, database, field, "--enable-ttl")


def _indexes(declared: Iterable[Shape] | None) -> list[Index]:
    return sorted({index_of(shape) for shape in (declared or shapes.declared())})


def _way(name: str) -> Way:
    return (name[1:], DESCENDING) if name.startswith("-") else (name, ASCENDING)


def _kind(way: str) -> dict[str, str]:
    return {"arrayConfig": way} if way == CONTAINS else {"order": way}


def _config(way: str) -> str:
    return "array-config=contains" if way == CONTAINS else f"order={way.lower()}"


def _command(verb: str, collection: str, database: str, *words: str) -> str:
    where = (f"--collection-group={collection}", f"--database={database}")
    return " ".join(("gcloud firestore", verb, *map(shlex.quote, (*where, *words))))
