"""Every query that is asked of Firestore, by its shape: what it compares, orders by and sums up.

Firestore answers a query only from an index of the same shape, and the emulator never misses one.
So no query is asked that is not declared here, and `shared.gcp.indexes` lists what they all need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

ANSWERS, ASSETS, BATCHES, JOBS, SCENES, SUBMISSIONS, WORKERS = (
    "answers", "assets", "batches", "jobs", "scenes", "submissions", "workers",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a query asks of a collection. A name in `order` that begins with - falls."""

    collection: str
    equal: tuple[str, ...] = ()
    among: tuple[str, ...] = ()  # equal to one of up to thirty values
    member: tuple[str, ...] = ()  # a list that holds the value; Firestore allows one
    compared: tuple[tuple[str, str], ...] = ()  # a field and its operator
    order: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()

    def ask(
        self,
        *,
        limit: int | None = None,
        after: Sequence[Any] | None = None,
        before: Sequence[Any] | None = None,
        select: Sequence[str] | None = None,
        **values: Any,
    ) -> "Ask":
        """Fill in the values.

        `after` and `before` have values for the first fields of the order, and leave out everything
        that has them: so one can jump over all that is alike in these fields. Raises ValueError if
        a value is missing or nothing compares it.
        """
        named = {*self.equal, *self.among, *self.member, *(field for field, _ in self.compared)}
        if named != set(values):
            raise ValueError(f"{self} needs values for {sorted(named)}, not {sorted(values)}")
        return Ask(
            shape=self, values=values, limit=limit, after=after, before=before, select=select
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A query: a shape and its values."""

    shape: Shape
    values: Mapping[str, Any]
    limit: int | None
    after: Sequence[Any] | None
    before: Sequence[Any] | None
    select: Sequence[str] | None

    def place(self, values: Sequence[Any]) -> dict[str, Any]:
        """Name the values of a place in the order."""
        names = [name.removeprefix("-") for name in self.shape.order]
        return dict(zip(names[: len(values)], values, strict=True))


def declared() -> list[Shape]:
    """List every shape that is declared in this module."""
    found: list[Shape] = []
    for value in globals().values():
        if isinstance(value, Shape):
            found.append(value)
        elif (
            isinstance(value, dict) and value and all(isinstance(v, Shape) for v in value.values())
        ):
            found += value.values()
    return found


# --- jobs: whose turn it is, and what has run out ------------------------------------------------

# A line is who stands in one: the jobs of one rank and tenant, the oldest first.
IN_LINE = ("rank", "tenant", "created_at", "id")
DUE = Shape(
    collection=JOBS,
    equal=("status", "cancel_wished"),
    compared=(("not_before", "<="),),
    order=IN_LINE,
)
TO_STEAL = Shape(
    collection=JOBS,
    equal=("status", "cancel_wished"),
    compared=(("lease_expires_at", "<"),),
    order=IN_LINE,
)
TO_WAKE = Shape(collection=JOBS, equal=("status",), compared=(("wake_at", "<="),), order=IN_LINE)
SILENT = Shape(
    collection=JOBS,
    equal=("status",),
    compared=(("lease_expires_at", "<"),),
    order=("lease_expires_at",),
)
CLAIMED_BEFORE = Shape(
    collection=JOBS,
    equal=("status",),
    compared=(("claimed_at", "<"),),
    order=("claimed_at",),
)
CREATED_BEFORE = Shape(
    collection=JOBS,
    equal=("status",),
    compared=(("created_at", "<"),),
    order=("created_at",),
)
UNTIDY = Shape(collection=JOBS, compared=(("cleanup_due", "<="),), order=("cleanup_due",))
RETIRED = Shape(
    collection=JOBS, equal=("final",), compared=(("expire_at", "<="),), order=("expire_at",)
)
DRAWN_FROM = Shape(collection=JOBS, member=("draws_from",))

# --- jobs: counted and summed up -----------------------------------------------------------------

# All at once, while they are few. By whether only one tenant's are asked for.
UNFINISHED = {
    of_tenant: Shape(
        collection=JOBS,
        equal=("final", "tenant") if of_tenant else ("final",),
        order=("status", "rank", "created_at", "id"),
    )
    for of_tenant in (False, True)
}
# One status and rank, the oldest first. By whether only one tenant's are asked for.
OF_RANK = {
    of_tenant: Shape(
        collection=JOBS,
        equal=("status", "rank", "tenant") if of_tenant else ("status", "rank"),
        order=("created_at",),
    )
    for of_tenant in (False, True)
}
WORK_OF_STATUS = Shape(collection=JOBS, equal=("status",), sums=("megapixel_steps",))
WORK_OF_RANKS = Shape(
    collection=JOBS,
    equal=("status",),
    compared=(("rank", "<"),),
    order=("rank",),
    sums=("megapixel_steps",),
)
LINES = Shape(collection=JOBS, equal=("status", "rank"), order=("tenant",))
WORK_IN_LINE = Shape(
    collection=JOBS,
    equal=("status", "rank", "tenant"),
    order=("created_at", "id"),
    sums=("megapixel_steps",),
)
CHANGED_SINCE = Shape(
    collection=JOBS,
    compared=(("updated_at", ">="),),
    order=("updated_at",),
    sums=("gpu_seconds",),
)

# --- jobs of a batch -----------------------------------------------------------------------------

TAKES = Shape(collection=JOBS, equal=("batch", "deleted"), order=("scene_key", "take"))
TAKES_OF_SCENES = Shape(
    collection=JOBS, equal=("batch", "deleted"), among=("scene_key",), order=("take",)
)
NEWEST_TAKES = Shape(collection=JOBS, equal=("batch", "superseded", "deleted", "status"))
SPENT_ON_BATCH = Shape(collection=JOBS, equal=("batch",), sums=("gpu_seconds",))

# --- what a tenant uses -------------------------------------------------------------------------

QUEUED_OF_TENANT = Shape(collection=JOBS, equal=("tenant", "status"))
MADE_SINCE = Shape(
    collection=JOBS,
    equal=("tenant",),
    compared=(("created_at", ">="),),
    order=("created_at",),
)
DRAWN_SINCE = Shape(
    collection=JOBS,
    equal=("tenant",),
    compared=(("updated_at", ">="),),
    order=("updated_at",),
    sums=("gpu_seconds",),
)
PENDING_OF_TENANT = Shape(collection=BATCHES, equal=("tenant", "settled"), sums=("pending",))

# --- lists that people ask for -------------------------------------------------------------------

# By which of status, batch and metadata the list is narrowed down.
LISTED = {
    narrowed: Shape(
        collection=JOBS,
        equal=("tenant", "deleted", *(name for name in ("status", "batch") if name in narrowed)),
        member=tuple(name for name in ("metadata",) if name in narrowed),
        order=("-created_at", "-id"),
    )
    for narrowed in (
        frozenset(
            name
            for name, there in zip(("status", "batch", "metadata"), given, strict=True)
            if there
        )
        for given in product((False, True), repeat=3)
    )
}

# --- batches, scenes, assets and workers ----------------------------------------------------------

UNSETTLED = Shape(collection=BATCHES, equal=("settled",), order=("created_at", "id"))
SCENES_OF_BATCH = Shape(
    collection=SCENES,
    equal=("batch",),
    compared=(("position", ">"),),
    order=("position",),
)
ASSETS_OF_TENANT = Shape(
    collection=ASSETS, equal=("tenant", "deleted"), order=("-created_at", "-id")
)
ASSETS_OVER = Shape(collection=ASSETS, compared=(("expire_at", "<="),), order=("expire_at",))
ASSETS_OF_ARTIFACT = Shape(collection=ASSETS, equal=("artifact",))
WORKERS_BY_LAST_WORD = Shape(collection=WORKERS, order=("-at",))
