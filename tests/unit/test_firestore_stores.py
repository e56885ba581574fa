"""Batches, assets and workers in Firestore: what happens when others write in between."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any

import pytest
from google.api_core import exceptions

from deploy.emulators import Hosts
from shared.batches import BatchScene, SceneChange
from shared.errors import JobExists, StoreError, StoreUnavailable
from shared.gcp.asset_store import FirestoreAssetStore
from shared.gcp.batch_store import FirestoreBatchStore
from shared.gcp.firestore import Firestore
from shared.gcp.job_store import FirestoreJobStore
from shared.gcp.parts import LARGEST_COMMIT
from shared.gcp.worker_store import KEPT, FirestoreWorkerStore
from shared.jobs import Job
from shared.vocabulary import Status
from tests.builders import NOW, a_batch_scene, a_job, a_scene, a_take, a_worker, an_asset, job_id
from tests.firestore_faults import Call, Fault, Faults, Listened, after, answer_lost, fault, refused

BATCH = "bat_1"
WAIT = 1.0  # seconds in which whoever is not kept waiting has long been done
SECOND = timedelta(seconds=1)


@pytest.fixture
def firestore(emulators: Hosts) -> Firestore:
    """A database of this test's own."""
    return Firestore(f"illo-{uuid.uuid4().hex[:16]}")


@pytest.fixture
def jobs(firestore: Firestore) -> FirestoreJobStore:
    return FirestoreJobStore(firestore)


@pytest.fixture
def batches(firestore: Firestore) -> FirestoreBatchStore:
    return FirestoreBatchStore(firestore)


@pytest.fixture
def assets(firestore: Firestore) -> FirestoreAssetStore:
    return FirestoreAssetStore(firestore)


@pytest.fixture
def workers(firestore: Firestore) -> FirestoreWorkerStore:
    return FirestoreWorkerStore(firestore)


@pytest.fixture
def faults(firestore: Firestore) -> Faults:
    return Faults(firestore)


def then(happens: Call) -> Fault:
    """Do something else as soon as the server has answered."""

    def meet(call: Call) -> Iterator[Any]:
        answer = list(call())
        happens()
        return iter(answer)

    return meet


UNHARMED = after(lambda: None)
LOST = answer_lost(fault(exceptions.ServiceUnavailable, "the answer was lost"))
KILLED = refused(fault(exceptions.InvalidArgument, "as if it had been killed"))


class Other(threading.Thread):
    """Somebody else's write, which may have to wait until ours is done."""

    def __init__(self, write: Callable[[], object]) -> None:
        super().__init__(target=write)
        self.was_first = False

    def go(self) -> None:
        """Begin, and see whether the write gets through at once."""
        self.start()
        self.join(WAIT)
        self.was_first = not self.is_alive()


def stored_scene(batches: FirestoreBatchStore, **of_the_job: Any) -> BatchScene:
    scene = a_batch_scene(BATCH)
    batches.add_scenes([scene], [a_take(scene, **of_the_job)])
    return scene


def one_more_take(scene: BatchScene, newest: Job | None, now: datetime) -> SceneChange:
    raised = replace(scene, last_take=scene.last_take + 1)
    return SceneChange(scene=raised, job=a_take(raised, raised.last_take))


class SeenByTheRule:
    """A rule that notes the status of the newest job, and writes it into the scene."""

    def __init__(self) -> None:
        self.all: list[Status | None] = []

    def __call__(self, scene: BatchScene, newest: Job | None, now: datetime) -> SceneChange:
        self.all.append(newest.status if newest else None)
        return SceneChange(scene=replace(scene, source={"seen": str(self.all[-1])}))


def ended(job: Job, now: datetime) -> Job:
    return replace(job, status=Status.FAILED)


class TestChangingScenes:
    def test_an_edit_rests_on_the_newest_job_as_it_is_at_the_commit(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        scene, rule = stored_scene(batches), SeenByTheRule()
        faults.on("commit", after(lambda: jobs.update(a_take(scene).id, ended)))
        batches.update_scenes(BATCH, ["p1"], rule)
        assert rule.all == [Status.QUEUED, Status.FAILED]
        assert batches.scene(BATCH, "p1").source == {"seen": "failed"}
        assert jobs.get(a_take(scene).id).status is Status.FAILED

    def test_an_edit_leaves_the_newest_job_as_it_is(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore
    ) -> None:
        scene = stored_scene(batches)
        before = jobs.get(a_take(scene).id)
        batches.update_scenes(BATCH, ["p1"], SeenByTheRule())
        assert jobs.get(before.id) == before

    def test_a_new_take_supersedes_the_former_one_as_it_is_at_the_commit(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        scene = stored_scene(batches)
        faults.on("commit", after(lambda: jobs.update(a_take(scene).id, ended)))
        batches.update_scenes(BATCH, ["p1"], one_more_take)
        former = jobs.get(a_take(scene).id)
        assert (former.status, former.superseded, former.version) == (Status.FAILED, True, 3)

    def test_a_scene_and_its_newest_job_are_of_one_moment(
        self, batches: FirestoreBatchStore, faults: Faults
    ) -> None:
        stored_scene(batches)
        pairs: list[tuple[int, int | None]] = []

        def look(scene: BatchScene, newest: Job | None, now: datetime) -> None:
            pairs.append((scene.last_take, newest.take if newest else None))
            assert newest
            assert not newest.superseded

        faults.on(
            "batch_get_documents", then(lambda: batches.update_scenes(BATCH, ["p1"], one_more_take))
        )
        batches.update_scenes(BATCH, ["p1"], look)
        assert pairs == [(2, 2)]

    def test_scenes_that_never_hold_still_are_given_up(
        self, batches: FirestoreBatchStore, faults: Faults
    ) -> None:
        stored_scene(batches)
        editing = threading.Lock()

        def edit() -> None:
            if editing.acquire(blocking=False):  # not while an edit reads
                batches.update_scenes(BATCH, ["p1"], SeenByTheRule())
                editing.release()

        faults.on_and_on("batch_get_documents", repeat(then(edit)))
        with pytest.raises(StoreUnavailable, match=BATCH):
            batches.update_scenes(BATCH, ["p1"], lambda *_: None)

    def test_that_there_is_no_job_holds_until_the_commit(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        scene, rule = a_batch_scene(BATCH), SeenByTheRule()
        batches.add_scenes([scene], [])
        other = Other(lambda: jobs.create([a_take(scene)]))
        faults.on("commit", after(other.go))
        batches.update_scenes(BATCH, ["p1"], rule)
        other.join()
        assert (rule.all[-1] is not None) == other.was_first
        assert jobs.get(a_take(scene).id)

    def test_a_take_that_is_there_already_is_refused_and_nothing_is_written(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore
    ) -> None:
        scene = stored_scene(batches)
        jobs.create([a_take(scene, 2)])
        with pytest.raises(JobExists):
            batches.update_scenes(BATCH, ["p1"], one_more_take)
        assert batches.scene(BATCH, "p1") == scene

    def test_a_job_of_any_other_id_is_refused_as_well(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore
    ) -> None:
        scene, taken = stored_scene(batches), a_job()
        jobs.create([taken])
        with pytest.raises(JobExists):
            batches.update_scenes(BATCH, ["p1"], lambda *_: SceneChange(scene=scene, job=taken))

    def test_one_whose_answer_is_lost_makes_one_take(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        stored_scene(batches)
        faults.on("commit", LOST)
        (change,) = batches.update_scenes(BATCH, ["p1"], one_more_take)
        assert change.scene.last_take == 2
        assert batches.scene(BATCH, "p1") == change.scene
        assert len(jobs.takes(BATCH)) == 2


class TestAddingScenes:
    def test_expanders_of_the_same_pages_do_not_disturb_each_other(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore
    ) -> None:
        scenes = [a_batch_scene(BATCH, f"p{n}", position=n) for n in range(40)]
        barrier, faults = threading.Barrier(4), list[Exception]()

        def expand(start: int) -> None:
            page = scenes[start : start + 25]
            barrier.wait()
            try:
                batches.add_scenes(page, [a_take(scene) for scene in page])
            except StoreError as fault:
                faults.append(fault)

        threads = [threading.Thread(target=expand, args=(start,)) for start in (0, 5, 10, 15)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert batches.scenes(BATCH) == scenes
        assert len(jobs.takes(BATCH)) == len(scenes)

    def test_a_new_page_is_one_commit(self, batches: FirestoreBatchStore, faults: Faults) -> None:
        scenes = [a_batch_scene(BATCH, f"p{n}", position=n) for n in range(100)]
        batches.add_scenes(scenes, [a_take(scene) for scene in scenes])
        assert faults.calls["commit"] == 1

    def test_a_wordy_page_is_more_than_one_and_a_scene_never_without_its_job(
        self, batches: FirestoreBatchStore, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        scenes = wordy_scenes(100)
        takes = [a_take(scene) for scene in scenes]
        faults.on("commit", UNHARMED, KILLED)
        with pytest.raises(StoreError):
            batches.add_scenes(scenes, takes)
        added = {scene.key for scene in batches.scenes(BATCH)}
        assert 0 < len(added) < len(scenes)
        assert {take.key for take in jobs.takes(BATCH)} == added
        batches.add_scenes(scenes, takes)
        assert batches.scenes(BATCH) == scenes
        assert len(jobs.takes(BATCH)) == len(scenes)

    def test_a_scene_that_is_named_twice_is_added_once(self, batches: FirestoreBatchStore) -> None:
        first = a_batch_scene(BATCH)
        batches.add_scenes([first, replace(first, revision=2)], [])
        assert batches.scenes(BATCH) == [first]


def wordy_scenes(count: int) -> list[BatchScene]:
    prompt = "🌩" * 4000
    return [
        a_batch_scene(BATCH, f"p{n}", position=n, scene=a_scene(prompt), source={"prompt": prompt})
        for n in range(count)
    ]


class TestRemovingAssets:
    def test_bytes_that_somebody_else_gets_at_that_moment_are_not_given_free(
        self, assets: FirestoreAssetStore, faults: Faults
    ) -> None:
        hers, his = an_asset(), an_asset(tenant="eve")
        assets.save(hers)
        other = Other(lambda: assets.save(his))
        faults.on("run_query", then(other.go))
        free = assets.remove(hers)
        other.join()
        assert free == (not other.was_first)
        assert assets.get("eve", his.id) == his

    def test_one_that_changes_at_that_moment_stays(
        self, assets: FirestoreAssetStore, faults: Faults
    ) -> None:
        asset = an_asset(expire_at=NOW)
        assets.save(asset)
        later = NOW + timedelta(days=9)
        other = Other(lambda: assets.keep("ada", asset.id, until=later))
        faults.on("run_query", then(other.go))
        removed = assets.remove(asset)
        other.join()
        assert removed == (not other.was_first)
        assert (assets.get("ada", asset.id) is None) == removed

    def test_bytes_are_given_free_though_the_answer_was_lost(
        self, assets: FirestoreAssetStore, faults: Faults
    ) -> None:
        asset = an_asset()
        assets.save(asset)
        faults.on("commit", LOST)
        assert assets.remove(asset)
        assert assets.get("ada", asset.id) is None

    @pytest.mark.parametrize("known", ["never known", "removed before"])
    def test_one_that_is_not_there_gives_nothing_free(
        self, assets: FirestoreAssetStore, known: str
    ) -> None:
        asset = an_asset()
        if known == "removed before":
            assets.save(asset)
            assert assets.remove(asset)
        assert not assets.remove(asset)

    def test_one_that_is_kept_for_long_enough_is_not_written_again(
        self, assets: FirestoreAssetStore, faults: Faults
    ) -> None:
        asset = an_asset()
        assets.save(asset)
        assert asset.expire_at
        assert assets.keep("ada", asset.id, until=asset.expire_at - SECOND)
        assert faults.calls["commit"] == 1
        assert assets.keep("ada", asset.id, until=asset.expire_at + SECOND)
        assert faults.calls["commit"] == 2


class TestWorkers:
    def test_a_word_of_a_worker_that_is_known_is_one_call(
        self, workers: FirestoreWorkerStore, faults: Faults
    ) -> None:
        worker = a_worker()
        workers.save(worker)
        before = faults.calls.total()
        later = replace(worker, at=NOW + SECOND)
        workers.save(later)
        assert faults.calls.total() == before + 1
        assert workers.records() == [later]

    def test_one_that_speaks_while_it_is_being_forgotten_stays(
        self, firestore: Firestore, workers: FirestoreWorkerStore, faults: Faults
    ) -> None:
        silent = a_worker(at=NOW - SECOND)
        workers.save(silent)
        for n in range(KEPT - 1):
            workers.save(a_worker(at=NOW + n * SECOND))
        speaking = replace(silent, at=NOW + timedelta(hours=1))
        faults.on("run_query", then(lambda: workers.save(speaking)))
        workers.save(a_worker(at=NOW + KEPT * SECOND))
        assert speaking in workers.records()

    def test_no_more_than_fifty_are_listed_whoever_forgets_them(
        self, firestore: Firestore, workers: FirestoreWorkerStore
    ) -> None:
        records = [a_worker(at=NOW + n * SECOND) for n in range(KEPT + 1)]
        for record in records:
            workers.save(record)
        workers.save(replace(records[0], at=NOW - SECOND))  # it was heard before: no clearing up
        assert len(workers.records()) == KEPT
        assert records[0].id not in {record.id for record in workers.records()}


class TestChangingManyJobs:
    def test_those_of_few_words_are_one_commit(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        few = [a_job() for _ in range(200)]
        jobs.create(few)
        faults.calls.clear()
        jobs.update_all([job.id for job in few], ended)
        assert faults.calls["commit"] == 1

    def test_those_of_many_words_are_several_of_a_bounded_size(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        wordy = stored_wordy(jobs)
        sent = Listened(faults, "commit")
        jobs.update_all([job.id for job in wordy], ended)
        sizes = [sum(type(one).pb(one).ByteSize() for one in r["writes"]) for r in sent.requests]
        assert len(sizes) > 2
        assert max(sizes) < LARGEST_COMMIT
        assert statuses(jobs, wordy) == [Status.FAILED] * len(wordy)

    def test_each_is_changed_or_not_and_a_repetition_changes_the_rest(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        wordy = stored_wordy(jobs)
        faults.on("commit", UNHARMED, KILLED)
        with pytest.raises(StoreError):
            jobs.update_all([job.id for job in wordy], ended)
        now = statuses(jobs, wordy)
        done = now.count(Status.FAILED)
        assert 0 < done < len(wordy)
        assert now == [Status.FAILED] * done + [Status.QUEUED] * (len(wordy) - done)
        jobs.update_all([job.id for job in wordy], ended)
        assert statuses(jobs, wordy) == [Status.FAILED] * len(wordy)

    def test_one_whose_answer_was_lost_is_changed_once(
        self, jobs: FirestoreJobStore, faults: Faults
    ) -> None:
        wordy = stored_wordy(jobs)
        faults.on("commit", LOST, UNHARMED, LOST)
        jobs.update_all([job.id for job in wordy], ended)
        changed = jobs.get_all([job.id for job in wordy])
        assert {(job.status, job.version) for job in changed.values()} == {(Status.FAILED, 2)}

    def test_a_group_is_read_by_one_call(self, jobs: FirestoreJobStore, faults: Faults) -> None:
        jobs.get_all([job_id(n) for n in range(401)])
        assert faults.calls["batch_get_documents"] == 3


def stored_wordy(jobs: FirestoreJobStore) -> list[Job]:
    """Jobs that are too many words for one commit, or two."""
    wordy = [a_job(scene=a_scene("🌩" * 4000), metadata={"a": "🌩" * 4000}) for _ in range(120)]
    for start in range(0, len(wordy), 40):
        jobs.create(wordy[start : start + 40])
    return wordy


def statuses(jobs: FirestoreJobStore, of: list[Job]) -> list[Status]:
    found = jobs.get_all([job.id for job in of])
    return [found[job.id].status for job in of]
