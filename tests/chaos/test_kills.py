"""Killed workers and killed APIs: every job ends once, and none is lost."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.service import Service, running

pytestmark = pytest.mark.slow

JOBS, KILLS, API_KILLS = 60, 5, 2
SIZE, SECONDS, MARGIN = 128, 2.0, 1.1
QUICK = {"lease_seconds": "4", "heartbeat_seconds": "1", "sweep_seconds": "0.5"}


def a_wish(steps: int, seed: int = 1) -> dict[str, Any]:
    size = {"width": SIZE, "height": SIZE}
    return {"prompt": f"Mia in the storm {seed}", "seed": seed, "steps": steps, **size}


def slow_enough(service: Service) -> dict[str, Any]:
    """Find a number of steps and images that takes this machine two seconds or more."""
    warm = service.ended(service.post("/v1/jobs", a_wish(4))["id"])
    assert warm["status"] == "succeeded"
    trial = service.ended(service.post("/v1/jobs", a_wish(100))["id"])
    seconds = trial["metrics"]["stages"]["denoising"]
    runs = SECONDS * MARGIN / seconds
    count = min(4, ceil(runs))
    return {"steps": min(100, ceil(100 * runs / count)), "count": count}


def test_sixty_jobs_survive_five_killed_workers_and_two_killed_apis(
    tmp_path: Path, weights: str
) -> None:
    with running(tmp_path / "data", weights=weights, **QUICK) as service:
        wish = slow_enough(service)
        ids, broken = _submit_while_the_api_is_killed(service, wish)
        assert len(set(ids)) == JOBS
        killed = _kill_workers(service, ids)
        jobs = [service.ended(id, within=600) for id in ids]
    _every_job_was_committed_once(jobs, killed)
    print(
        f"\n{JOBS} jobs, {len(killed)} workers killed, {API_KILLS} APIs killed with "
        f"{broken} requests in flight: {Counter(job['status'] for job in jobs)}, "
        f"attempts {Counter(job['attempt'] for job in jobs)}"
    )


def _submit_while_the_api_is_killed(
    service: Service, wish: dict[str, Any]
) -> tuple[list[str], int]:
    """Submit all jobs at once; kill the API twice while requests are on their way."""
    broken = Counter[str]()
    answered = threading.Semaphore(0)

    def submit(number: int) -> str:
        body, key = {**a_wish(1, seed=number), **wish}, f"job-{number}"

        def ask() -> str:
            try:
                return str(service._answered(
                    "POST", "/v1/jobs", (202,), json=body, headers={"Idempotency-Key": key}
                )["id"])  # fmt: skip
            except urllib3.exceptions.ProtocolError:  # answered by a dying process, not refused
                broken["requests"] += 1
                raise

        id = service.patiently(ask)
        answered.release()
        return id

    with ThreadPoolExecutor(JOBS) as clients:
        futures = [clients.submit(submit, number) for number in range(JOBS)]
        for _ in range(API_KILLS):
            for _ in range(8):
                assert answered.acquire(timeout=60)
            service.kill("api")
        ids = [future.result(timeout=120) for future in futures]
    assert broken["requests"] >= API_KILLS, "no request was broken, so no kill was in mid-request"
    return ids, broken["requests"]


def _kill_workers(service: Service, ids: list[str]) -> list[str]:
    """Kill the worker five times after a step was seen, each time on another job."""
    killed: list[str] = []
    for _ in range(KILLS):
        drawn = service.until(
            lambda: _drawing(service, ids), lambda job: job is not None and job not in killed, 120
        )
        assert drawn is not None
        service.kill("worker")
        killed.append(drawn)
    return killed


def _drawing(service: Service, ids: list[str]) -> str | None:
    """Find a job of which a step has been drawn."""
    for job in service.get("/v1/jobs?status=running&limit=10")["data"]:
        progress = job["progress"] or {}
        if job["id"] in ids and progress.get("phase") == "denoising" and progress["step"] >= 1:
            return str(job["id"])
    return None


def _every_job_was_committed_once(jobs: list[dict[str, Any]], killed: list[str]) -> None:
    assert Counter(job["status"] for job in jobs) == {"succeeded": JOBS}
    assert len(set(killed)) == KILLS
    drawings = 0
    for job in jobs:
        events = [moment["event"] for moment in job["timeline"]]
        assert events.count("succeeded") == 1
        assert events[-1] == "succeeded"
        starts = events.count("claimed") + events.count("stolen")
        assert starts == job["attempt"]
        drawings += starts
    assert all(
        "stolen" in [moment["event"] for moment in job["timeline"]]
        for job in jobs
        if job["id"] in killed
    )
    # a worker has at most two jobs in hand: one is drawn while the former is being stored
    assert drawings <= JOBS + 2 * KILLS


def test_a_job_that_always_kills_its_worker_fails_and_those_behind_it_succeed(
    tmp_path: Path, weights: str
) -> None:
    with running(tmp_path / "data", weights=weights, **QUICK) as service:
        wish = slow_enough(service)
        poison = service.post("/v1/jobs", {**a_wish(1), **wish})["id"]
        behind = [service.post("/v1/jobs", a_wish(4, seed))["id"] for seed in range(5)]
        for attempt in (1, 2, 3):
            service.until(
                lambda: service.get(f"/v1/jobs/{poison}"),
                lambda job, wanted=attempt: (
                    job["status"] == "running"  # type: ignore[misc]
                    and job["attempt"] == wanted
                    and (job["progress"] or {}).get("step", 0) >= 1
                ),
            )
            service.kill("worker")
        failed = service.ended(poison)
        assert failed["status"] == "failed"
        assert failed["error"]["code"] == "worker_lost"
        assert failed["attempt"] == 3
        assert {service.ended(id)["status"] for id in behind} == {"succeeded"}


def test_any_process_may_be_killed_at_any_time(tmp_path: Path, weights: str) -> None:
    dice = random.Random(7)
    with running(tmp_path / "data", weights=weights, **QUICK) as service:
        ids = [
            service.post("/v1/jobs", a_wish(40, seed), key=f"any-{seed}")["id"]
            for seed in range(12)
        ]
        for _ in range(6):
            kind = dice.choice(["api", "worker", "queue"])
            before = service.kill(kind)
            service.until(
                service.pids,
                lambda pids, kind=kind, before=before: str(before) not in str(pids[kind]),  # type: ignore[misc]
            )
        jobs = [service.ended(id, within=180) for id in ids]
    assert {job["status"] for job in jobs} == {"succeeded"}
