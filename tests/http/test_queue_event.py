"""What a sweep tells the log about the queue: alarms are made of it."""

import json
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from api.app import create_app
from api.queue_event import tell_queue
from shared.jobs import Job
from shared.logs import JsonLines
from shared.vocabulary import Priority
from shared.workers import WorkerState
from tests.builders import WEIGHTS, a_worker
from tests.http.conftest import House, claimed

FIGURES = ("queued", "running", "oldest_queued_seconds", "failed_starts", "gpu_seconds_today")


def told(house: House, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The last event `queue`, as Cloud Logging reads it."""
    with caplog.at_level(logging.INFO, logger="api.queue_event"):
        tell_queue(house.backends, house.settings)
    return dict(json.loads(JsonLines().format(caplog.records[-1])))


def figures(house: House, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    event = told(house, caplog)
    return {name: event[name] for name in FIGURES}


def test_an_empty_queue_is_told_in_zeros(house: House, caplog: pytest.LogCaptureFixture) -> None:
    event = told(house, caplog)
    assert event["message"] == "queue"
    assert {name: event[name] for name in FIGURES} == dict.fromkeys(FIGURES, 0)


def test_what_waits_and_what_is_drawn_is_counted(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    old = house.have(priority=Priority.LOW)
    house.clock.advance(timedelta(seconds=90))
    house.have(created_at=house.backends.workers.now())
    assert figures(house, caplog) == {
        "queued": 2, "running": 0, "oldest_queued_seconds": 90, "failed_starts": 0,
        "gpu_seconds_today": 0,
    }  # fmt: skip
    claimed(house, old.id)
    assert figures(house, caplog) | {"oldest_queued_seconds": 0} == {
        "queued": 1, "running": 1, "oldest_queued_seconds": 0, "failed_starts": 0,
        "gpu_seconds_today": 0,
    }  # fmt: skip


def test_the_oldest_that_waits_is_not_the_oldest_that_is_drawn(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = house.have()
    house.clock.advance(timedelta(seconds=60))
    house.have(created_at=house.backends.workers.now())
    claimed(house, drawn.id)
    house.clock.advance(timedelta(seconds=5))
    assert figures(house, caplog)["oldest_queued_seconds"] == 5


def test_failed_starts_in_a_row_are_counted_for_the_weights_that_are_set(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    workers, now = house.backends.workers, house.backends.workers.now()
    for number, source in enumerate(("others", house.settings.weights, house.settings.weights)):
        began = now + timedelta(seconds=number)
        workers.save(a_worker(state=WorkerState.BROKEN, started_at=began, at=began, source=source))
    assert figures(house, caplog)["failed_starts"] == 2


def test_a_call_for_a_sweep_tells_it_when_the_sweep_is_over(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.have()
    house.clock.advance(house.settings.terms.max_queued * 2)
    monkeypatch.setattr("shared.identity.verify", lambda authorization, sweeper: None)
    settings = house.settings.model_copy(update={"sweep_audience": "https://sweep.example.com"})
    sweeper: Any = object()
    app = create_app(house.backends, settings, WEIGHTS, sweeper=sweeper)
    with caplog.at_level(logging.INFO, logger="api.queue_event"):
        assert app.test_client().post("/internal/sweep").json["ended"] == 1
    (event,) = [record for record in caplog.records if record.message == "queue"]
    assert vars(event)["queued"] == 0


def test_drawing_seconds_are_those_of_today(house: House, caplog: pytest.LogCaptureFixture) -> None:
    job = house.have()
    spent = claimed(house, job.id)
    house.backends.jobs.update(spent.id, lambda job, now: used(job, 12.5))
    assert figures(house, caplog)["gpu_seconds_today"] == 12.5
    house.clock.advance(timedelta(days=1))
    assert figures(house, caplog)["gpu_seconds_today"] == 0


def used(job: Job, seconds: float) -> Job:
    return replace(job, metrics=replace(job.metrics, gpu_seconds=seconds))
