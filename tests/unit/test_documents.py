"""Stored documents: every value reads as it was written, by older and newer versions, too."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.assets import Asset
from shared.batches import Batch, BatchScene
from shared.documents import from_json, to_json
from shared.errors import StoreError
from shared.jobs import Job
from shared.vocabulary import Priority, Status
from shared.workers import QueueControl, WorkerRecord
from tests.builders import a_batch, a_batch_scene, a_job, a_worker, an_asset

STORED = (Job, Batch, BatchScene, Asset, WorkerRecord, QueueControl)

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(
    Mapping,
    lambda kind: st.dictionaries(
        st.text(), _json if get_args(kind)[1] is object else st.from_type(get_args(kind)[1])
    ),
)


@given(st.one_of(*(st.from_type(kind) for kind in STORED)))
def test_every_stored_value_reads_as_it_was_written(value: Any) -> None:
    assert from_json(type(value), to_json(value)) == value


def stored(value: object, **others: object) -> str:
    return json.dumps(json.loads(to_json(value)) | others)


@pytest.mark.parametrize(
    "value", [a_job(), a_batch(), a_batch_scene(), an_asset(), a_worker(), QueueControl()]
)
def test_fields_of_a_newer_version_are_passed_over(value: object) -> None:
    assert from_json(type(value), stored(value, mood="stormy", more={"a": [1]})) == value


def test_nested_fields_of_a_newer_version_are_passed_over() -> None:
    job = a_job(status=Status.RUNNING)
    document = json.loads(to_json(job))
    for nested in ("scene", "lease", "metrics"):
        document[nested]["mood"] = "stormy"
    assert from_json(Job, json.dumps(document)) == job


def test_fields_that_an_older_version_lacked_get_their_default() -> None:
    required = (
        "id", "tenant", "scene", "recipe", "created_at", "updated_at", "expire_at", "not_before",
        "wake_at",
    )  # fmt: skip
    full = json.loads(to_json(a_job(priority=Priority.HIGH, wakes=3)))
    job = from_json(Job, json.dumps({name: full[name] for name in required}))
    assert job.priority is Priority.NORMAL
    assert (job.wakes, job.images, job.metadata, job.superseded) == (0, (), {}, False)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "[]",
        "null",
        "{",
        stored(a_job(), status="sleeping"),
        stored(a_job(), created_at="yesterday"),
        stored(a_job(), scene=None),
    ],
)
def test_a_document_that_is_none_is_refused(document: str) -> None:
    with pytest.raises(StoreError, match="Job cannot be read"):
        from_json(Job, document)


def test_a_refusal_names_the_place_and_not_the_contents() -> None:
    document = stored(a_job(), status="a prompt that nobody may log")
    with pytest.raises(StoreError) as raised:
        from_json(Job, document)
    assert "status" in str(raised.value)
    assert "prompt" not in str(raised.value)
