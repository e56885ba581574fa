"""Which indexes Firestore needs: the rules, and that what is asked is what is declared."""

import ast
import json
import secrets
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.cloud.firestore_v1.types import StructuredQuery

from deploy.commands.indexes import indexes as command
from deploy.emulators import Hosts
from shared.batches import BatchScene, SceneChange
from shared.gcp import indexes, job_sums, shapes
from shared.gcp.asset_store import FirestoreAssetStore
from shared.gcp.batch_store import FirestoreBatchStore
from shared.gcp.firestore import Firestore
from shared.gcp.indexes import Index, index_of
from shared.gcp.job_store import FirestoreJobStore
from shared.gcp.shapes import JOBS, Shape
from shared.gcp.worker_store import KEPT, FirestoreWorkerStore
from shared.jobs import Job
from shared.ports import JobFilter
from shared.quotas import Quota
from shared.vocabulary import Status
from tests.builders import (
    a_batch,
    a_batch_scene,
    a_job,
    a_record,
    a_reference,
    a_scene,
    a_take,
    a_worker,
    an_asset,
)
from tests.firestore_faults import Faults, Listened

ROOT = Path(__file__).parents[2]
COLLECTIONS = (
    shapes.ANSWERS, shapes.ASSETS, shapes.BATCHES, shapes.JOBS, shapes.SCENES, shapes.SUBMISSIONS,
    shapes.WORKERS,
)  # fmt: skip
QUOTA = Quota(queued_jobs=1000)
MOST_COMPOSITE = 200  # of one database, unless it is billed for


def ways(index: Index) -> list[str]:
    """The fields of an index: falling ones with -, lists with []."""
    marks = {"ASCENDING": "{}", "DESCENDING": "-{}", "CONTAINS": "{}[]"}
    return [marks[way].format(field) for field, way in index[1]]


class TestAnIndex:
    @pytest.mark.parametrize(
        ("what_matters", "expected"),
        [
            ({"equal": ("a",)}, ["a"]),
            ({"member": ("a",)}, ["a[]"]),
            ({"order": ("-a",)}, ["-a"]),
            ({"compared": (("a", "<"),)}, ["a"]),
            ({"compared": (("a", "<"),), "order": ("-a",)}, ["-a"]),
            ({"equal": ("a", "b")}, ["a", "b"]),
            ({"equal": ("a",), "member": ("b",)}, ["a", "b[]"]),
            ({"equal": ("a",), "among": ("b",), "order": ("c",)}, ["a", "b", "c"]),
            ({"equal": ("a",), "member": ("b",), "order": ("-c",)}, ["a", "b[]", "-c"]),
            ({"equal": ("a",), "order": ("b", "-c")}, ["a", "b", "-c"]),
            ({"equal": ("a",), "compared": (("b", ">"),)}, ["a", "b"]),
            ({"equal": ("a",), "compared": (("c", ">"),), "order": ("b",)}, ["a", "b", "c"]),
            ({"compared": (("c", ">"),), "order": ("-b",)}, ["-b", "-c"]),
            ({"compared": (("d", ">"), ("c", "<")), "order": ("b",)}, ["b", "c", "d"]),
            ({"sums": ("b",)}, ["b"]),
            ({"equal": ("a",), "sums": ("b",)}, ["a", "b"]),
            ({"compared": (("a", ">"),), "order": ("a",), "sums": ("b",)}, ["a", "b"]),
            ({"compared": (("a", ">"),), "sums": ("a",)}, ["a"]),
        ],
        ids=str,
    )
    def test_has_what_is_equal_then_the_order_then_what_else_is_compared_and_summed(
        self, what_matters: dict[str, Any], expected: list[str]
    ) -> None:
        assert ways(index_of(Shape(collection="c", **what_matters))) == expected

    def test_of_one_field_is_no_composite_one(self) -> None:
        one, two = Shape(collection="c", equal=("a",)), Shape(collection="c", equal=("a", "b"))
        assert indexes.composite([one, two]) == [index_of(two)]
        assert indexes.single([one, two]) == [("c", ("a", "ASCENDING"))]

    def test_that_serves_two_shapes_is_listed_once(self) -> None:
        ordered = Shape(collection="c", equal=("a",), order=("b",))
        compared = Shape(collection="c", equal=("a",), compared=(("b", "<"),))
        assert indexes.composite([ordered, compared]) == [index_of(ordered)]


class TestTheDeclaredShapes:
    def test_are_such_as_firestore_answers(self) -> None:
        for shape in shapes.declared():
            fields = [field for field, _ in index_of(shape)[1]]
            assert len(fields) == len(set(fields)), shape
            assert len(shape.member) <= 1, shape
            assert len(shape.among) <= 1, shape

    def test_need_fewer_indexes_than_a_database_may_have(self) -> None:
        assert 0 < len(indexes.composite()) < MOST_COMPOSITE

    def test_are_made_in_one_file_only(self) -> None:
        makers = {
            file.relative_to(ROOT).as_posix()
            for file in (ROOT / "shared").rglob("*.py")
            if {"Shape", "Ask"} & set(_called(ast.parse(file.read_text())))
        }
        assert makers == {"shared/gcp/shapes.py"}

    def test_are_the_only_way_to_ask(self) -> None:
        askers = {
            file.relative_to(ROOT).as_posix()
            for file in (ROOT / "shared").rglob("*.py")
            if {"where", "order_by", "AggregationQuery"} & set(_called(ast.parse(file.read_text())))
        }
        assert askers == {"shared/gcp/firestore.py"}

    def test_want_a_value_for_each_field_and_for_no_other(self) -> None:
        shape = Shape(collection="c", equal=("a",), compared=(("b", "<"),))
        shape.ask(a=1, b=2)
        with pytest.raises(ValueError, match="needs values for"):
            shape.ask(a=1)
        with pytest.raises(ValueError, match="needs values for"):
            shape.ask(a=1, b=2, c=3)


def _called(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield str(getattr(node.func, "id", getattr(node.func, "attr", "")))


class TestATourOfEveryMethod:
    """Each method of each store is called once with little and once with much in the database."""

    @pytest.fixture
    def store(self, emulators: Hosts) -> Firestore:
        return Firestore(f"illo-{secrets.token_hex(6)}")

    @pytest.fixture
    def asked(self, store: Firestore, monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
        """What reached Firestore, read back from the queries themselves."""
        listened = Listened(Faults(store), "run_query", "run_aggregation_query")
        tour(store)
        monkeypatch.setattr(job_sums, "FEW", 0)
        tour(store)
        return [_shape_of(request) for request in listened.requests]

    def test_asks_what_is_declared_and_all_of_it(self, asked: list[Shape]) -> None:
        declared = {_bare(shape) for shape in shapes.declared()}
        assert set(asked) == declared

    def test_every_index_is_of_fields_that_are_stored(
        self, store: Firestore, asked: list[Shape]
    ) -> None:
        stored = {name: _fields_stored(store, name) for name in COLLECTIONS}
        for collection, fields in {index_of(shape) for shape in asked}:
            assert {field for field, _ in fields} <= stored[collection]
        for collection, field in indexes.TIME_TO_LIVE.items():
            assert field in stored[collection]

    def test_what_is_large_or_changes_with_every_write_is_in_no_index(self) -> None:
        indexed = {field for shape in shapes.declared() for field, _ in index_of(shape)[1]}
        assert not indexed & {"document", "body", "headers", "writes"}


def tour(store: Firestore) -> None:
    now = store.now()
    tour_of_jobs(FirestoreJobStore(store), now=now)
    tour_of_batches(FirestoreBatchStore(store))
    tour_of_assets(FirestoreAssetStore(store))
    workers = FirestoreWorkerStore(store)
    workers.save(a_worker(at=now))
    assert 0 < len(workers.records()) <= KEPT


def tour_of_jobs(jobs: FirestoreJobStore, *, now: Any) -> None:
    later, batch = now + timedelta(days=1), f"bat_{secrets.token_hex(4)}"
    scene = a_batch_scene(batch, scene=a_scene(references=(a_reference(),)))
    job = a_take(scene, metadata={"a": "b"})
    rival = a_job(tenant="eve", created_at=job.created_at - timedelta(hours=1))
    own = a_job(created_at=job.created_at - timedelta(hours=1))
    record = a_record(secrets.token_hex(4), expire_at=later)
    jobs.create([job, own, rival], record=record, quota=QUOTA)
    assert jobs.claimable(per_tenant=8)
    assert jobs.wakeable(8)
    assert jobs.silent(8) == []
    assert jobs.overdue(8, queued_before=now, claimed_before=now)
    assert jobs.untidy(8) == []
    assert jobs.retired(8) == []
    for status in (None, Status.QUEUED):
        for of in (None, batch):
            for pair in (None, ("a", "b")):
                wanted = JobFilter(tenant="ada", status=status, batch=of, metadata=pair)
                assert job in jobs.find(wanted, limit=100).items
    assert jobs.counts()
    assert jobs.counts("ada")
    assert jobs.ahead(job).jobs >= 2
    assert jobs.gpu_seconds(now) == 0
    assert jobs.usage("ada").queued_jobs >= 2
    assert jobs.needs_asset(job.scene.references[0].asset)
    assert [take.job for take in jobs.takes(batch)] == [job.id]
    assert jobs.takes(batch, [scene.key]) == jobs.takes(batch)
    assert jobs.batch_counts(batch) == {Status.QUEUED: 1}
    assert jobs.batch_gpu_seconds(batch) == 0
    jobs.remove(job.id)


def tour_of_batches(batches: FirestoreBatchStore) -> None:
    batch = a_batch(id=f"bat_{secrets.token_hex(4)}")
    scene = a_batch_scene(batch)
    batches.create(batch, quota=QUOTA)
    batches.add_scenes([scene], [a_take(scene)])
    assert batch in batches.unfinished(100)
    assert batches.scenes(batch.id) == [scene]
    (changed,) = batches.update_scenes(batch.id, [scene.key], next_take, quota=QUOTA)
    assert changed.scene.last_take == 2


def next_take(scene: BatchScene, newest: Job | None, now: object) -> SceneChange:
    raised = replace(scene, last_take=scene.last_take + 1)
    return SceneChange(scene=raised, job=a_take(raised, raised.last_take))


def tour_of_assets(assets: FirestoreAssetStore) -> None:
    asset = an_asset(secrets.token_hex(4))
    assets.save(asset)
    assert asset in assets.find("ada", limit=100).items
    assert asset in assets.retired(100)
    assert assets.remove(asset)
    assets.save(an_asset("kept", expire_at=None))


Operator = StructuredQuery.FieldFilter.Operator
COMPARES = {
    Operator.LESS_THAN: "<",
    Operator.LESS_THAN_OR_EQUAL: "<=",
    Operator.GREATER_THAN: ">",
    Operator.GREATER_THAN_OR_EQUAL: ">=",
}


def _shape_of(request: Any) -> Shape:
    """Read the shape of a query as it was sent."""
    summed = request.get("structured_aggregation_query")
    query = summed.structured_query if summed else request["structured_query"]
    (of,) = query.from_
    filters = [(one.op, one.field.field_path) for one in _filters(query)]
    order = [
        ("-" if one.direction == StructuredQuery.Direction.DESCENDING else "")
        + one.field.field_path
        for one in query.order_by
    ]
    sums = (
        [one.sum.field.field_path for one in summed.aggregations if "sum" in one] if summed else []
    )

    def of_kind(kind: int) -> list[str]:
        return [field for operator, field in filters if operator == kind]

    return _bare(
        Shape(
            collection=of.collection_id,
            equal=tuple(of_kind(Operator.EQUAL)),
            among=tuple(of_kind(Operator.IN)),
            member=tuple(of_kind(Operator.ARRAY_CONTAINS)),
            compared=tuple((name, COMPARES[op]) for op, name in filters if op in COMPARES),
            order=tuple(order),
            sums=tuple(sums),
        )
    )


def _filters(query: StructuredQuery) -> Sequence[StructuredQuery.FieldFilter]:
    where = query.where
    if "composite_filter" in where:
        return [one.field_filter for one in where.composite_filter.filters]
    return [where.field_filter] if "field_filter" in where else []


def _bare(shape: Shape) -> Shape:
    """The same shape, however its parts are sorted where that does not matter."""
    return replace(
        shape,
        equal=tuple(sorted(shape.equal)),
        compared=tuple(sorted(shape.compared)),
        sums=tuple(sorted(shape.sums)),
    )


def _fields_stored(store: Firestore, collection: str) -> set[str]:
    return {
        name
        for document in store.client.collection(collection).limit(50).stream()
        for name in document.to_dict() or {}
    }


class TestTheCommand:
    def test_prints_what_firebase_reads(self) -> None:
        printed = json.loads(CliRunner().invoke(command).stdout)
        assert printed == indexes.document()
        assert len(printed["indexes"]) == len(indexes.composite())
        assert {
            "collectionGroup": JOBS,
            "queryScope": "COLLECTION",
            "fields": [
                {"fieldPath": "tenant", "order": "ASCENDING"},
                {"fieldPath": "deleted", "order": "ASCENDING"},
                {"fieldPath": "metadata", "arrayConfig": "CONTAINS"},
                {"fieldPath": "created_at", "order": "DESCENDING"},
                {"fieldPath": "id", "order": "DESCENDING"},
            ],
        } in printed["indexes"]

    def test_takes_every_field_out_of_the_indexes_but_those_that_are_asked_for_alone(self) -> None:
        overrides = indexes.document()["fieldOverrides"]
        off = [one["collectionGroup"] for one in overrides if one["fieldPath"] == "*"]
        assert off == list(COLLECTIONS)
        kept = [
            (one["collectionGroup"], one["fieldPath"], kind)
            for one in overrides
            for index in one["indexes"]
            for kind in (index.get("order") or index["arrayConfig"],)
        ]
        assert kept == [(of, field, way) for of, (field, way) in indexes.single()]
        assert (JOBS, "cleanup_due", "ASCENDING") in kept
        assert (JOBS, "draws_from", "CONTAINS") in kept
        (ends,) = [one for one in overrides if one.get("ttl")]
        assert (ends["collectionGroup"], ends["fieldPath"]) == (shapes.ANSWERS, "expire_at")

    def test_prints_commands_of_gcloud_that_say_the_same(self) -> None:
        given = ["--format", "gcloud", "--database", "stories"]
        lines = CliRunner().invoke(command, given).stdout.splitlines()
        document = indexes.document()
        assert len(lines) == len(document["indexes"]) + len(document["fieldOverrides"])
        assert all(" --database=stories " in line for line in lines)
        assert (
            "gcloud firestore indexes composite create --collection-group=batches "
            "--database=stories --field-config=field-path=tenant,order=ascending "
            "--field-config=field-path=settled,order=ascending "
            "--field-config=field-path=pending,order=ascending --async"
        ) in lines
        assert (
            "gcloud firestore indexes fields update --collection-group=jobs --database=stories "
            "'*' --disable-indexes"
        ) in lines

    def test_says_how_to_apply_them(self) -> None:
        said = CliRunner().invoke(command, ["--help"]).stdout
        for words in ("firestore.indexes.json", "firebase deploy", "--format gcloud"):
            assert words in " ".join(said.split())

    def test_brings_no_sdk_along(self) -> None:
        ask = (
            "import sys; from deploy.root import run_command; run_command(['indexes']); "
            "sys.exit(sorted(name for name in sys.modules if name.startswith('google')) or 0)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout
