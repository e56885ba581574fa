"""The operator's switch, failed starts, and why nothing is drawn or woken."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.holds import why_held, why_not_woken
from shared.quotas import day_of
from shared.vocabulary import Metrics
from shared.workers import (
    FAILED_STARTS,
    GIVEN_UP_AFTER,
    SEEN_WITHIN,
    START_TIMEOUT,
    QueueControl,
    WorkerRecord,
    WorkerState,
    alive,
    failed_starts,
    pause,
    resume,
    starts_blocked,
)
from tests.builders import NOW, WEIGHTS, a_worker
from tests.http.conftest import House, a_house

OPEN = QueueControl()
TINY = "tiny"
MOMENT = timedelta(microseconds=1)


def started(minute: int, state: WorkerState = WorkerState.BROKEN, **more: Any) -> WorkerRecord:
    at = NOW + timedelta(minutes=minute)
    return a_worker(**{"started_at": at, "at": at, "state": state} | more)


def failures(*records: WorkerRecord, control: QueueControl = OPEN, source: str = TINY) -> int:
    return len(failed_starts(records, control, NOW + timedelta(hours=1), source=source))


def test_pausing_and_resuming_turn_the_switch() -> None:
    paused = pause(OPEN, NOW, reason="new weights")
    assert (paused.paused, paused.reason, paused.changed_at) == (True, "new weights", NOW)
    resumed = resume(paused, NOW + MOMENT)
    assert (resumed.paused, resumed.reason, resumed.resumed_at) == (False, "", NOW + MOMENT)
    assert pause(resumed, NOW, reason="").resumed_at == NOW + MOMENT


def test_failed_starts_count_back_to_the_last_that_went_well() -> None:
    assert failures(started(1), started(3), started(2)) == 3
    assert failures(started(1), started(2, WorkerState.IDLE), started(3)) == 1
    assert failures(started(1), started(2, WorkerState.STOPPED)) == 0


def test_failed_starts_of_other_weights_and_from_before_a_resume_are_forgiven() -> None:
    assert failures(started(1), started(2, source="/other"), started(3)) == 1
    assert failures(started(1), source="/other") == 0
    forgiving = resume(OPEN, NOW + timedelta(minutes=2))
    assert failures(started(1), started(2), started(3), control=forgiving) == 1


def test_a_start_that_has_fallen_silent_has_failed() -> None:
    begun = started(0, WorkerState.STARTING)
    broken = started(-1)
    for silence, expected in ((START_TIMEOUT - MOMENT, 1), (START_TIMEOUT, 2)):
        found = failed_starts([begun, broken], OPEN, NOW + silence, source=TINY)
        assert len(found) == expected


@pytest.mark.parametrize(
    ("took", "counted"), [(GIVEN_UP_AFTER - MOMENT, 0), (GIVEN_UP_AFTER, 1)], ids=["soon", "late"]
)
def test_a_start_that_was_ended_late_has_failed(took: timedelta, counted: int) -> None:
    ended = started(0, WorkerState.STOPPED, at=NOW + took)
    assert failures(ended) == counted
    assert failures(replace(ended, weights=WEIGHTS)) == 0


def test_starts_that_were_ended_late_block_further_ones() -> None:
    ended = [
        started(i, WorkerState.STOPPED, at=NOW + timedelta(minutes=i) + GIVEN_UP_AFTER)
        for i in range(FAILED_STARTS)
    ]
    told = starts_blocked(ended, OPEN, NOW + timedelta(hours=1), source=TINY)
    assert told is not None
    assert "ended before it was ready" in told


def test_three_failed_starts_in_a_row_block_further_ones_and_say_why() -> None:
    broken = [started(i, error=f"no weights {i}") for i in range(FAILED_STARTS)]
    now = NOW + timedelta(hours=1)
    assert starts_blocked(broken[1:], OPEN, now, source=TINY) is None
    told = starts_blocked(broken, OPEN, now, source=TINY)
    assert told is not None
    assert "no weights 2" in told


def test_a_worker_is_alive_while_it_was_heard_of_lately_and_has_not_ended() -> None:
    here = a_worker(at=NOW - SEEN_WITHIN)
    silent = a_worker(at=NOW - SEEN_WITHIN - MOMENT)
    gone = [a_worker(state=state) for state in (WorkerState.BROKEN, WorkerState.STOPPED)]
    assert alive([here, silent, *gone], NOW) == (here,)


# --- holds ------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> House:
    return a_house(tmp_path)


def held(house: House) -> tuple[str | None, str | None]:
    stores = house.backends.jobs, house.backends.workers, house.settings
    return why_held(*stores), why_not_woken(*stores)


def test_nothing_is_held_on_an_ordinary_day(house: House) -> None:
    assert held(house) == (None, None)


def test_a_paused_queue_is_held_until_it_is_resumed(house: House) -> None:
    house.backends.workers.update_control(lambda c, now: pause(c, now, reason="new weights"))
    assert held(house) == ("the queue is paused: new weights",) * 2
    house.backends.workers.update_control(resume)
    assert held(house) == (None, None)


def test_failing_starts_stop_the_waking_but_not_a_worker_that_is_there(house: House) -> None:
    for minute in range(FAILED_STARTS):
        house.backends.workers.save(started(-minute, error="no weights"))
    claiming, waking = held(house)
    assert claiming is None
    assert waking is not None
    assert "no weights" in waking


def test_the_days_ceiling_holds_everything_until_midnight_utc(house: House) -> None:
    ceiling = house.settings.gpu_seconds_per_day
    house.have(metrics=Metrics(gpu_seconds=ceiling - 1))
    assert held(house) == (None, None)
    house.have(metrics=Metrics(gpu_seconds=1))
    claiming, waking = held(house)
    assert claiming is not None
    assert claiming == waking
    assert "ILLO_GPU_SECONDS_PER_DAY" in claiming
    house.clock.advance(day_of(NOW) + timedelta(days=1) - NOW)
    assert held(house) == (None, None)
