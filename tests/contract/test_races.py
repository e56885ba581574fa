"""Several processes on one backend: whoever they are, one wins."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any, cast

import pytest

from shared.batches import BatchScene, SceneChange
from shared.errors import ArtifactExists, IdempotencyRecorded, LeaseHeld
from shared.jobs import Job, claim
from shared.ports import IdempotencyRecord
from shared.vocabulary import Status
from tests.builders import TERMS, a_batch_scene, a_job, a_record, a_take, an_answer, job_id
from tests.contract.conftest import Backend, Place

pytestmark = pytest.mark.slow

PROCESSES = 5
ROUNDS = {"embedded": 40}
FEW_ROUNDS = 3  # where a round costs calls over a network
WAIT = 60

Racer = Callable[[Backend, int, int], Any]  # backend, round, racer -> what came of it


def rounds_of(place: Place) -> int:
    return ROUNDS.get(place.name, FEW_ROUNDS)


def race(place: Place, racer: Racer, *, rounds: int | None = None) -> list[list[Any]]:
    """Let every process run every round at the same moment; list the outcomes by round."""
    rounds = rounds or rounds_of(place)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_run, args=(place, racer, rounds, number, barrier, results))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    try:
        outcomes = [results.get(timeout=WAIT) for _ in processes]
    finally:
        for process in processes:
            process.join(timeout=WAIT)
            process.kill()
    return [list(of_a_round) for of_a_round in zip(*outcomes, strict=True)]


def _run(
    place: Place, racer: Racer, rounds: int, number: int, barrier: Barrier, results: "Queue[Any]"
) -> None:
    backend, outcomes = place.open(), []
    for round in range(rounds):
        barrier.wait(timeout=WAIT)
        outcomes.append(racer(backend, round, number))
    results.put(outcomes)


def claim_job(backend: Backend, round: int, racer: int) -> str:
    try:
        change = partial(claim, holder=f"worker-{racer}", terms=TERMS)
        lease = backend.jobs.update(job_id(round), change).lease
    except LeaseHeld:
        return "held"
    assert lease
    return lease.holder


def test_of_five_claims_one_wins(place: Place) -> None:
    backend = place.open()
    backend.jobs.create([a_job(id=job_id(round)) for round in range(rounds_of(place))])
    for round, outcomes in enumerate(race(place, claim_job)):
        winners = [outcome for outcome in outcomes if outcome != "held"]
        job = backend.jobs.get(job_id(round))
        assert job.lease
        assert winners == [job.lease.holder]
        assert (job.attempt, job.version) == (1, 2)


def add_one(backend: Backend, round: int, racer: int) -> int:
    job = backend.jobs.update(job_id("counter"), lambda job, now: replace(job, wakes=job.wakes + 1))
    return job.wakes


def test_no_change_is_lost(place: Place) -> None:
    backend = place.open()
    backend.jobs.create([a_job(id=job_id("counter"))])
    outcomes = race(place, add_one)
    seen = sorted(wakes for of_a_round in outcomes for wakes in of_a_round)
    changes = PROCESSES * rounds_of(place)
    assert seen == list(range(1, changes + 1))
    assert backend.jobs.get(job_id("counter")).version == 1 + changes


def create_once(backend: Backend, round: int, racer: int) -> bytes:
    """Submit with a key that all racers share; return the answer that stands."""
    body = f"answer of {racer}".encode()
    record = a_record(
        f"round {round}", answer=an_answer(body), expire_at=backend.now + timedelta(hours=1)
    )
    try:
        backend.jobs.create([a_job(id=job_id((round, racer)))], record=record)
    except IdempotencyRecorded as used:
        return cast(IdempotencyRecord, used.record).answer.body
    return body


def only_one_created(backend: Backend, outcomes: list[list[bytes]], racers: int) -> None:
    for of_a_round in outcomes:
        assert len(of_a_round) == racers
        assert len(set(of_a_round)) == 1
    assert sum(count.jobs for count in backend.jobs.counts()) == len(outcomes)


def test_of_equal_requests_in_five_processes_one_creates(place: Place) -> None:
    only_one_created(place.open(), race(place, create_once), PROCESSES)


def test_of_equal_requests_in_eight_threads_one_creates(backend: Backend) -> None:
    racers, rounds = 8, 20
    barrier = threading.Barrier(racers)
    outcomes: list[list[bytes]] = [[] for _ in range(rounds)]

    def run(number: int) -> None:
        for round in range(rounds):
            barrier.wait(timeout=WAIT)
            outcomes[round].append(create_once(backend, round, number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    only_one_created(backend, outcomes, racers)


def reprocess(backend: Backend, round: int, racer: int) -> int:
    def rule(scene: BatchScene, newest: Job | None, now: object) -> SceneChange:
        raised = replace(scene, last_take=scene.last_take + 1)
        return SceneChange(scene=raised, job=a_take(raised, raised.last_take))

    (change,) = backend.batches.update_scenes("bat_1", ["p1"], rule)
    return change.scene.last_take


def test_two_reprocesses_never_share_a_take(place: Place) -> None:
    backend, scene = place.open(), a_batch_scene("bat_1", "p1")
    backend.batches.add_scenes([scene], [a_take(scene)])
    rounds = min(10, rounds_of(place))
    outcomes = race(place, reprocess, rounds=rounds)
    takes = sorted(take for of_a_round in outcomes for take in of_a_round)
    assert takes == list(range(2, 2 + PROCESSES * rounds))
    assert backend.jobs.batch_counts("bat_1") == {Status.QUEUED: 1}


def put_own_bytes(backend: Backend, round: int, racer: int) -> tuple[int, int] | None:
    data = bytes([racer]) * 1000
    try:
        stored = backend.artifacts.put(f"a/{round}.png", data, content_type="image/png")
    except ArtifactExists:
        return None
    return racer, stored.generation


def test_of_five_writers_with_different_bytes_one_wins(place: Place) -> None:
    backend = place.open()
    for round, outcomes in enumerate(race(place, put_own_bytes)):
        (winner,) = [outcome for outcome in outcomes if outcome]
        racer, generation = winner
        assert backend.artifacts.get(f"a/{round}.png", generation) == bytes([racer]) * 1000


def put_same_bytes(backend: Backend, round: int, racer: int) -> int:
    return backend.artifacts.put(f"a/{round}.png", b"same", content_type="image/png").generation


def test_writers_of_the_same_bytes_make_one_artifact(place: Place) -> None:
    backend = place.open()
    for round, outcomes in enumerate(race(place, put_same_bytes)):
        ((generation, count),) = Counter(outcomes).items()
        assert count == PROCESSES
        assert backend.artifacts.get(f"a/{round}.png", generation) == b"same"


@pytest.mark.parametrize("attempt", range(3))
def test_processes_that_open_a_new_place_at_once_all_can(place: Place, attempt: int) -> None:
    assert race(place, claimable_count, rounds=1) == [[0] * PROCESSES]


def claimable_count(backend: Backend, round: int, racer: int) -> int:
    return len(backend.jobs.claimable(per_tenant=1))
