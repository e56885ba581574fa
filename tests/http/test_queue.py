"""The queue as a whole, the workers, and what a waiting job is told."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.queue_view import Standing, place_of
from shared.holds import why_held
from shared.ports import Ahead
from shared.vocabulary import Metrics, Phase, Priority, Progress, Status
from shared.workers import WorkerRecord, WorkerState
from tests.builders import NOW, WEIGHTS, a_job, a_scene, seconds
from tests.http.conftest import Away, House, claimed

ROOT = Path(__file__).parents[2]
REMOTE = {"REMOTE_ADDR": "192.0.2.7"}


def a_worker(state: WorkerState = WorkerState.IDLE, **what_matters: Any) -> WorkerRecord:
    given: dict[str, Any] = {"id": "wrk_1", "started_at": NOW, "at": NOW, "source": "tiny"}
    return WorkerRecord(state=state, **given | what_matters)


def standing(*workers: WorkerRecord, stopped: str | None = None) -> Standing:
    return Standing(now=NOW, stopped=stopped, workers=workers)


FIRST = Ahead(jobs=0, megapixel_steps=0)
THIRD = Ahead(jobs=2, megapixel_steps=10)


@pytest.mark.parametrize(
    ("ahead", "at", "reason"),
    [
        (FIRST, standing(a_worker()), "next in turn"),
        (Ahead(jobs=1, megapixel_steps=1), standing(a_worker()), "waiting behind 1 job"),
        (THIRD, standing(a_worker()), "waiting behind 2 jobs"),
        (THIRD, standing(a_worker(), stopped="the queue is paused"), "the queue is paused"),
        (
            THIRD,
            standing(a_worker(WorkerState.STARTING, stage="weights", fraction=0.62)),
            "a worker is starting: weights 62 %",
        ),
        (THIRD, standing(a_worker(WorkerState.STARTING)), "a worker is starting"),
        (
            THIRD,
            standing(a_worker(WorkerState.STARTING), a_worker(WorkerState.DRAWING)),
            "waiting behind 2 jobs",
        ),
        (
            THIRD,
            standing(),
            "no worker has been heard of lately; it is drawn when one starts",
        ),
    ],
)
def test_a_waiting_job_is_told_why(ahead: Ahead, at: Standing, reason: str) -> None:
    place = place_of(a_job(), ahead, at)
    assert place
    assert (place.position, place.reason) == (ahead.jobs + 1, reason)


def test_a_job_between_two_attempts_is_told_when_the_next_is_due() -> None:
    job = a_job(not_before=NOW + seconds(30))
    place = place_of(job, FIRST, standing(a_worker(seconds_per_megapixel_step=1.0)))
    assert place
    assert place.reason == "the next attempt is due at 2026-03-01T12:00:30+00:00"
    assert place.start == NOW + seconds(30)


def test_the_eta_follows_from_the_workers_pace() -> None:
    job = a_job(scene=a_scene(width=1000, height=1000, steps=5))
    workers = [
        a_worker(WorkerState.DRAWING, id="a", seconds_per_megapixel_step=1.0),
        a_worker(WorkerState.IDLE, id="b", seconds_per_megapixel_step=3.0),
        a_worker(WorkerState.STARTING, id="c"),
    ]
    place = place_of(job, THIRD, standing(*workers))
    assert place
    assert place.start == NOW + seconds(10 * 2 / 2)
    assert place.finish == place.start + seconds(5 * 2)


@pytest.mark.parametrize(
    "at",
    [
        standing(),
        standing(a_worker()),
        standing(a_worker(WorkerState.STARTING, seconds_per_megapixel_step=1.0)),
        standing(a_worker(seconds_per_megapixel_step=1.0), stopped="the queue is paused"),
    ],
)
def test_what_cannot_be_told_is_no_eta(at: Standing) -> None:
    place = place_of(a_job(), THIRD, at)
    assert place
    assert (place.start, place.finish) == (None, None)


def test_a_running_job_has_an_end_by_its_progress() -> None:
    progress = Progress(phase=Phase.DENOISING, step=3, steps=4)
    job = a_job(
        status=Status.RUNNING, progress=progress, scene=a_scene(width=1000, height=1000, steps=4)
    )
    worker = a_worker(WorkerState.DRAWING, seconds_per_megapixel_step=2.0)
    place = place_of(job, None, standing(worker))
    assert place
    assert (place.position, place.start, place.finish) == (0, NOW, NOW + seconds(2))


def test_an_ended_job_has_no_place() -> None:
    assert place_of(a_job(status=Status.FAILED), None, standing()) is None


def test_the_etag_stays_while_only_the_eta_moves(house: House) -> None:
    house.backends.workers.save(a_worker(seconds_per_megapixel_step=1.0))
    path = f"/v1/jobs/{house.have().id}"
    first = house.client.get(path)
    house.clock.advance(5)
    later = house.client.get(path)
    assert first.json["queue"]["eta"] != later.json["queue"]["eta"]
    assert first.headers["ETag"] == later.headers["ETag"]


def test_positions_follow_the_order_of_drawing(house: House) -> None:
    house.backends.workers.save(a_worker())
    running = claimed(house, house.have().id)
    jobs = {
        "first": house.have(created_at=NOW),
        "second": house.have(created_at=NOW + seconds(1)),
        "urgent": house.have(created_at=NOW + seconds(2), priority=Priority.HIGH),
    }
    house.clock.advance(5)
    told = {
        name: house.client.get(f"/v1/jobs/{job.id}").json["queue"]["position"]
        for name, job in jobs.items()
    }
    assert told == {"urgent": 2, "first": 3, "second": 4}
    assert house.client.get(f"/v1/jobs/{running.id}").json["queue"]["position"] == 0


def test_the_queue_counts_by_status_and_priority(house: House) -> None:
    house.have(priority=Priority.HIGH)
    house.have(created_at=NOW - seconds(90))
    claimed(house, house.have(priority=Priority.LOW).id)
    house.have(status=Status.FAILED)
    queue = house.client.get("/v1/queue").json
    assert queue["counts"] == {
        "queued": {"high": 1, "normal": 1, "low": 0},
        "running": {"high": 0, "normal": 0, "low": 1},
    }
    assert queue["oldest_queued_seconds"] == 90
    assert (queue["paused"], queue["reason"]) == (False, None)


def test_an_empty_queue_has_no_oldest_job(house: House) -> None:
    assert house.client.get("/v1/queue").json["oldest_queued_seconds"] is None


def test_an_operator_pauses_and_resumes_the_queue(house: House) -> None:
    job = house.have()
    answer = house.client.post("/v1/queue/pause", json={"reason": "a new card"})
    assert answer.status_code == 200
    assert answer.json["paused"] is True
    assert answer.json["reason"] == "a new card"
    held = why_held(house.backends.jobs, house.backends.workers, house.settings)
    assert held == "the queue is paused: a new card"
    assert house.client.get("/v1/queue").json["reason"] == held
    assert house.client.get(f"/v1/jobs/{job.id}").json["queue"]["reason"] == held
    assert house.client.get("/v1/jobs").json["data"][0]["queue"]["reason"] == held
    resumed = house.client.post("/v1/queue/resume").json
    assert (resumed["paused"], resumed["reason"]) == (False, None)
    assert why_held(house.backends.jobs, house.backends.workers, house.settings) is None


def test_a_pause_needs_no_reason(house: House) -> None:
    assert house.client.post("/v1/queue/pause").json["reason"] is None
    assert house.client.get("/v1/queue").json["reason"] == "the queue is paused"


def test_only_this_machine_turns_the_switch(house: House) -> None:
    for path in ("/v1/queue/pause", "/v1/queue/resume"):
        answer = house.client.post(path, environ_overrides=REMOTE)
        assert (answer.status_code, answer.json["code"]) == (403, "loopback_only")
    assert house.client.get("/v1/queue").json["changed_at"] is None


def test_a_used_up_day_is_told(house: House) -> None:
    house = house.with_settings(gpu_seconds_per_day=10)
    house.have(status=Status.SUCCEEDED, metrics=Metrics(gpu_seconds=10))
    job = house.have()
    reason = house.client.get(f"/v1/jobs/{job.id}").json["queue"]["reason"]
    assert reason.startswith("today's 10 GPU seconds are used up")
    assert house.client.get("/v1/queue").json["gpu_seconds_today"] == 10


def test_starts_that_keep_failing_are_told(house: House) -> None:
    for number in range(3):
        house.backends.workers.save(
            a_worker(WorkerState.BROKEN, id=f"wrk_{number}", error="no model.gguf")
        )
    job = house.have()
    reason = house.client.get(f"/v1/jobs/{job.id}").json["queue"]["reason"]
    assert reason == "the last 3 starts of a worker failed: no model.gguf"


def test_workers_are_listed_as_they_told(house: House) -> None:
    house.backends.workers.save(
        a_worker(
            WorkerState.DRAWING,
            job="job_1",
            weights=WEIGHTS,
            device="NVIDIA L4",
            memory_bytes=24 * 2**30,
            seconds_per_megapixel_step=1.4,
        )
    )
    assert house.client.get("/v1/workers").json["data"] == [
        {
            "id": "wrk_1",
            "object": "worker",
            "state": "drawing",
            "stage": None,
            "fraction": 0.0,
            "error": None,
            "job": "job_1",
            "weights": {"label": "tiny", "sha256": "0" * 64},
            "device": "NVIDIA L4",
            "memory_bytes": 25769803776,
            "seconds_per_megapixel_step": 1.4,
            "started_at": "2026-03-01T12:00:00Z",
            "last_seen": "2026-03-01T12:00:00Z",
        }
    ]


def test_the_service_is_ready_while_its_store_can_be_reached(house: House) -> None:
    assert house.client.get("/readyz").json == {"status": "ok"}
    away = house.client_over(replace(house.backends, workers=Away(), jobs=Away()))  # type: ignore[arg-type]
    assert away.get("/readyz").status_code == 503
    assert away.get("/healthz").status_code == 200
    assert away.get("/metrics").status_code == 200


def test_metrics_count_what_happened(house: House) -> None:
    client = house.client
    client.post("/v1/jobs", json={"prompt": "a"})
    client.post("/v1/jobs", json={"prompt": ""})
    client.get(f"/v1/jobs/job_{'a' * 26}")
    client.open("/v1/jobs", method="BREW")
    client.get("/anything/at/all")
    told = client.get("/metrics").get_data(as_text=True)
    assert "illo_jobs_accepted_total 1.0" in told
    assert 'illo_jobs_unfinished{priority="normal",status="queued"} 1.0' in told
    for method, route, status in (
        ("POST", "/v1/jobs", 202),
        ("POST", "/v1/jobs", 422),
        ("GET", "/v1/jobs/<id>", 404),
        ("any", "unknown", 405),
        ("any", "unknown", 404),
    ):
        line = f'{{method="{method}",route="{route}",status="{status}"}} 1.0'
        assert f"illo_http_requests_total{line}" in told
    assert "illo_http_request_seconds_bucket" in told
    assert "BREW" not in told


FIGURE = re.compile(r"^\| `(illo_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)


def test_the_document_lists_every_figure_with_its_kind_and_labels(house: House) -> None:
    client = house.client
    client.post("/v1/jobs", json={"prompt": "Mia"})
    told = {}
    for family in text_string_to_metric_families(client.get("/metrics").get_data(as_text=True)):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        if not name.endswith("_created"):  # prometheus_client tells when it began, too
            told[name] = (family.type, labels - {"le"})
    _, _, of_the_api = (ROOT / "docs/metrics.md").read_text().partition("## Of the API")
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in FIGURE.findall(of_the_api)
    }
    assert listed == told
