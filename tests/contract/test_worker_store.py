"""What every WorkerStore promises."""

import threading
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest

from shared.workers import QueueControl, WorkerState, pause, resume
from tests.builders import WEIGHTS, a_worker
from tests.contract.conftest import Backend

SECOND = timedelta(seconds=1)


def test_a_worker_is_known_by_its_last_word(backend: Backend) -> None:
    first = a_worker(id="w", state=WorkerState.STARTING, stage="fetching", fraction=0.62)
    last = a_worker(id="w", state=WorkerState.IDLE, weights=WEIGHTS, memory_bytes=10**12, pid=7)
    backend.workers.save(first)
    backend.workers.save(last)
    assert backend.workers.records() == [last]


def test_the_worker_that_started_last_comes_first(backend: Backend) -> None:
    records = [a_worker(started_at=backend.now - n * SECOND) for n in range(3)]
    for n in (1, 0, 2):
        backend.workers.save(records[n])
    assert backend.workers.records() == records


def test_fifty_workers_are_kept_and_a_steady_one_outlives_failed_starts(backend: Backend) -> None:
    now = backend.now
    steady = a_worker(started_at=now - timedelta(days=9), at=now + 99 * SECOND)
    starts = [a_worker(started_at=now + n * SECOND, at=now + n * SECOND) for n in range(51)]
    for record in (steady, *starts):
        backend.workers.save(record)
    kept = backend.workers.records()
    assert len(kept) == 50
    assert steady in kept
    assert starts[2] in kept
    assert starts[1] not in kept


def test_a_worker_that_speaks_again_is_known_again(backend: Backend) -> None:
    first = a_worker(at=backend.now - 60 * SECOND)
    backend.workers.save(first)
    for n in range(50):
        backend.workers.save(a_worker(at=backend.now + n * SECOND))
    assert first not in backend.workers.records()
    again = replace(first, at=backend.now + 60 * SECOND)
    backend.workers.save(again)
    kept = backend.workers.records()
    assert len(kept) == 50
    assert again in kept


def test_of_turns_at_once_none_is_lost(backend: Backend) -> None:
    turns, barrier = 4, threading.Barrier(4)

    def one_more(control: QueueControl, now: datetime) -> QueueControl:
        return pause(control, now, reason=control.reason + "x")

    def turn() -> None:
        barrier.wait()
        backend.workers.update_control(one_more)

    threads = [threading.Thread(target=turn) for _ in range(turns)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert backend.workers.control().reason == "x" * turns


def test_the_switch_is_on_until_somebody_turns_it(backend: Backend) -> None:
    assert backend.workers.control() == QueueControl()


def test_turning_the_switch_is_stored(backend: Backend) -> None:
    off = backend.workers.update_control(partial(pause, reason="repairs"))
    assert off.paused
    assert off.changed_at
    assert abs(off.changed_at - backend.now) < 60 * SECOND
    assert backend.workers.control() == off
    on = backend.workers.update_control(resume)
    assert backend.workers.control() == on
    assert not on.paused


def test_a_turn_that_fails_leaves_the_switch_alone(backend: Backend) -> None:
    def refuse(control: QueueControl, now: datetime) -> QueueControl:
        raise LookupError

    with pytest.raises(LookupError):
        backend.workers.update_control(refuse)
    assert backend.workers.control() == QueueControl()
