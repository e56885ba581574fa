"""What every BatchStore promises."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.batches import Batch, BatchScene, SceneChange
from shared.errors import (
    BatchNotFound,
    IdempotencyRecorded,
    JobExists,
    JobNotFound,
    SceneNotFound,
)
from shared.jobs import Job
from shared.vocabulary import Status
from tests.builders import a_batch, a_batch_scene, a_record, a_scene, a_take, sha
from tests.contract.conftest import Backend

BATCH = "bat_1"


def stored_scenes(backend: Backend, count: int, **of_the_job: Any) -> list[BatchScene]:
    scenes = [a_batch_scene(BATCH, f"p{n}", position=n) for n in range(count)]
    backend.batches.add_scenes(scenes, [a_take(scene, **of_the_job) for scene in scenes])
    return scenes


def one_more_take(scene: BatchScene, newest: Job | None, now: datetime) -> SceneChange:
    raised = replace(scene, last_take=scene.last_take + 1)
    return SceneChange(scene=raised, job=a_take(raised, raised.last_take))


def test_a_batch_reads_as_it_was_written(backend: Backend) -> None:
    batch = a_batch(defaults={"steps": 4, "seed": {"policy": "fixed"}, "references": ["ast_1"]})
    backend.batches.create(batch)
    assert backend.batches.get(batch.id) == batch


def test_a_batch_that_was_never_stored_is_not_found(backend: Backend) -> None:
    with pytest.raises(BatchNotFound):
        backend.batches.get("bat_none")
    with pytest.raises(BatchNotFound):
        backend.batches.update("bat_none", lambda batch, now: batch)


def test_a_batch_and_its_answer_are_written_together_or_not_at_all(backend: Backend) -> None:
    first, second = a_batch(), a_batch()
    record = a_record("k", path="/v1/batches", expire_at=backend.now + timedelta(days=1))
    backend.batches.create(first, record=record)
    assert backend.jobs.recall("ada", "/v1/batches", sha("k")) == record
    with pytest.raises(IdempotencyRecorded) as raised:
        backend.batches.create(second, record=record)
    assert raised.value.record == record
    with pytest.raises(BatchNotFound):
        backend.batches.get(second.id)


def test_a_change_is_stored_and_counted(backend: Backend) -> None:
    batch = a_batch()
    backend.batches.create(batch)
    changed = backend.batches.update(batch.id, lambda old, now: replace(old, canceled=True))
    assert changed.canceled
    assert changed.version == 2
    assert backend.batches.get(batch.id) == changed
    assert backend.batches.update(batch.id, lambda old, now: old) == changed
    assert backend.batches.get(batch.id).version == 2


def test_what_a_change_raises_leaves_the_batch_alone(backend: Backend) -> None:
    batch = a_batch()
    backend.batches.create(batch)

    def refuse(old: Batch, now: datetime) -> Batch:
        raise LookupError

    with pytest.raises(LookupError):
        backend.batches.update(batch.id, refuse)
    assert backend.batches.get(batch.id) == batch


def test_unfinished_batches_are_listed_oldest_first(backend: Backend) -> None:
    new, old = a_batch(), a_batch(created_at=backend.now - timedelta(days=300))
    done = a_batch(expanded=2)
    for batch in (new, old, done):
        backend.batches.create(batch)
    assert sorted(b.id for b in backend.batches.unfinished(9)) == sorted([old.id, new.id])
    assert [b.id for b in backend.batches.unfinished(1)] == [old.id]
    backend.batches.update(old.id, lambda batch, now: replace(batch, expanded=1))
    assert len(backend.batches.unfinished(9)) == 2
    backend.batches.update(old.id, lambda batch, now: replace(batch, expanded=2))
    assert [b.id for b in backend.batches.unfinished(9)] == [new.id]


class TestAddScenes:
    def test_scenes_and_jobs_read_as_they_were_written(self, backend: Backend) -> None:
        scene = a_batch_scene(BATCH, "seite 1/ü", source={"prompt": "x", "steps": 4})
        job = a_take(scene)
        backend.batches.add_scenes([scene], [job])
        assert backend.batches.scene(BATCH, "seite 1/ü") == scene
        assert backend.jobs.get(job.id) == job

    def test_repeating_an_expansion_changes_nothing(self, backend: Backend) -> None:
        (scene,) = stored_scenes(backend, 1)
        edited = replace(scene, revision=2)
        backend.batches.update_scenes(BATCH, ["p0"], lambda *_: SceneChange(scene=edited))
        job = a_take(scene)
        backend.jobs.update(job.id, lambda old, now: replace(old, status=Status.SUCCEEDED))
        other = a_batch_scene(BATCH, "p1", position=1)
        backend.batches.add_scenes([scene, other], [job, a_take(other)])
        assert backend.batches.scene(BATCH, "p0") == edited
        assert backend.jobs.get(job.id).status is Status.SUCCEEDED
        assert backend.batches.scene(BATCH, "p1") == other
        assert len(backend.jobs.takes(BATCH)) == 2

    def test_100_scenes_fit_and_101_are_refused(self, backend: Backend) -> None:
        with pytest.raises(ValueError, match="100"):
            stored_scenes(backend, 101)
        stored_scenes(backend, 100)
        assert len(backend.jobs.takes(BATCH)) == 100

    def test_100_scenes_of_many_words_fit(self, backend: Backend) -> None:
        words = "🌩" * 4000
        scenes = [
            a_batch_scene(
                BATCH, f"p{n}", position=n, scene=a_scene(words), source={"prompt": words}
            )
            for n in range(100)
        ]
        backend.batches.add_scenes(scenes, [a_take(scene) for scene in scenes])
        assert backend.batches.scenes(BATCH) == scenes
        assert len(backend.jobs.takes(BATCH)) == 100


class TestScenes:
    def test_are_listed_by_position_in_pages(self, backend: Backend) -> None:
        scenes = [a_batch_scene(BATCH, f"p{9 - n}", position=n) for n in range(5)]
        backend.batches.add_scenes(list(reversed(scenes)), [])
        backend.batches.add_scenes([a_batch_scene("bat_2", "x")], [])
        assert backend.batches.scenes(BATCH) == scenes
        assert backend.batches.scenes(BATCH, limit=2) == scenes[:2]
        assert backend.batches.scenes(BATCH, after=1, limit=2) == scenes[2:4]
        assert backend.batches.scenes(BATCH, after=4) == []

    def test_an_unknown_scene_is_not_found(self, backend: Backend) -> None:
        stored_scenes(backend, 1)
        with pytest.raises(SceneNotFound, match="p9"):
            backend.batches.scene(BATCH, "p9")

    def test_are_found_by_key(self, backend: Backend) -> None:
        scenes = [a_batch_scene(BATCH, f"p{n:03}", position=n) for n in range(201)]
        backend.batches.add_scenes(scenes[:100], [])
        backend.batches.add_scenes(scenes[100:200], [])
        backend.batches.add_scenes([scenes[200], a_batch_scene("bat_2", "x")], [])
        keys = [scene.key for scene in scenes]
        found = backend.batches.scenes_by_key(BATCH, [*reversed(keys), "p000", "x", "", "p%"])
        assert found == {scene.key: scene for scene in scenes}
        assert backend.batches.scenes_by_key(BATCH, []) == {}


class TestUpdateScenes:
    def test_the_rule_gets_the_scene_its_newest_job_and_the_time(self, backend: Backend) -> None:
        (scene,) = stored_scenes(backend, 1)
        lonely = a_batch_scene(BATCH, "alone", position=1)
        backend.batches.add_scenes([lonely], [])
        seen = {}

        def look(stored: BatchScene, newest: Job | None, now: datetime) -> None:
            seen[stored.key] = (stored, newest and newest.id)
            assert abs(now - backend.now) < timedelta(minutes=1)

        assert backend.batches.update_scenes(BATCH, ["p0", "alone"], look) == []
        assert seen == {"p0": (scene, a_take(scene).id), "alone": (lonely, None)}

    def test_a_new_take_supersedes_the_former_one(self, backend: Backend) -> None:
        (scene,) = stored_scenes(backend, 1, status=Status.FAILED)
        for take in (2, 3):
            (change,) = backend.batches.update_scenes(BATCH, ["p0"], one_more_take)
            assert change.job is not None
            assert backend.batches.scene(BATCH, "p0") == change.scene
            assert backend.jobs.get(change.job.id) == change.job
            former = backend.jobs.get(a_take(scene, take - 1).id)
            assert former.superseded
            assert former.version == 2
        assert [take.take for take in backend.jobs.takes(BATCH)] == [1, 2, 3]
        assert backend.jobs.batch_counts(BATCH) == {Status.QUEUED: 1}

    def test_a_change_without_a_job_supersedes_nothing(self, backend: Backend) -> None:
        (scene,) = stored_scenes(backend, 1)
        edited = replace(scene, scene=a_scene("Mia flies"), revision=2)
        changes = backend.batches.update_scenes(BATCH, ["p0"], lambda *_: SceneChange(scene=edited))
        assert changes == [SceneChange(scene=edited)]
        assert backend.jobs.get(a_take(scene).id) == a_take(scene)

    def test_a_scene_whose_job_was_removed_is_edited_and_drawn_again(
        self, backend: Backend
    ) -> None:
        (scene,) = stored_scenes(backend, 1)
        backend.jobs.remove(a_take(scene).id)
        edited = replace(scene, revision=2)
        backend.batches.update_scenes(BATCH, ["p0"], lambda *_: SceneChange(scene=edited))
        assert backend.batches.scene(BATCH, "p0") == edited
        (change,) = backend.batches.update_scenes(BATCH, ["p0"], one_more_take)
        assert change.job is not None
        assert [take.job for take in backend.jobs.takes(BATCH)] == [change.job.id]

    def test_a_take_that_is_there_already_is_refused_and_nothing_is_written(
        self, backend: Backend
    ) -> None:
        first, second = stored_scenes(backend, 2)
        backend.jobs.create([a_take(second, 2)])
        with pytest.raises(JobExists):
            backend.batches.update_scenes(BATCH, ["p0", "p1"], one_more_take)
        assert backend.batches.scenes(BATCH) == [first, second]
        assert len(backend.jobs.takes(BATCH)) == 3

    @pytest.mark.parametrize("failing", ["missing scene", "rule"])
    def test_it_is_all_or_nothing(self, backend: Backend, failing: str) -> None:
        (scene,) = stored_scenes(backend, 1)
        calls: list[str] = []

        def rule(stored: BatchScene, newest: Job | None, now: datetime) -> SceneChange:
            calls.append(stored.key)
            if failing == "rule" and stored.key == "p1":
                raise LookupError
            return one_more_take(stored, newest, now)

        if failing == "rule":
            backend.batches.add_scenes([a_batch_scene(BATCH, "p1", position=1)], [])
        expected: type[Exception] = LookupError if failing == "rule" else SceneNotFound
        with pytest.raises(expected):
            backend.batches.update_scenes(BATCH, ["p0", "p1"], rule)
        assert backend.batches.scene(BATCH, "p0") == scene
        with pytest.raises(JobNotFound):
            backend.jobs.get(a_take(scene, 2).id)

    def test_a_key_named_twice_counts_once(self, backend: Backend) -> None:
        stored_scenes(backend, 1)
        assert len(backend.batches.update_scenes(BATCH, ["p0", "p0"], one_more_take)) == 1
        assert backend.batches.scene(BATCH, "p0").last_take == 2

    def test_50_scenes_fit_and_51_are_refused(self, backend: Backend) -> None:
        scenes = stored_scenes(backend, 51)
        keys = [scene.key for scene in scenes]
        rule: Callable[..., SceneChange] = one_more_take
        with pytest.raises(ValueError, match="50"):
            backend.batches.update_scenes(BATCH, keys, rule)
        assert len(backend.batches.update_scenes(BATCH, keys[:50], rule)) == 50
