"""Everything on Google's emulators, with lost and doubled messages and killed workers."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_batches import completed, scenes_of
from tests.chaos.test_kills import a_wish
from tests.service import Service, running

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulators_installed")]

JOBS, WORKERS, KILLS, SCENES = 60, 2, 3, 6
ON_EMULATORS = ("--backend", "gcp", "--emulators", "--workers", str(WORKERS))
MISHAPS = ("--mishaps", "lose=0.05,double=0.2,delay=0.1")
QUICK = {"lease_seconds": "6", "heartbeat_seconds": "1.5", "sweep_seconds": "1"}


def test_sixty_jobs_and_a_batch_survive_killed_workers_and_faulty_delivery(
    tmp_path: Path, weights: str
) -> None:
    data = tmp_path / "data"
    with running(data, *ON_EMULATORS, *MISHAPS, weights=weights, **QUICK) as service:
        ids = [
            service.post("/v1/jobs", a_wish(20, seed), f"job-{seed}")["id"] for seed in range(JOBS)
        ]
        killed = _kill_workers(service, ids)
        jobs = [service.ended(id, within=400) for id in ids]
        for job in jobs:
            _the_picture_is_whole(service, job)
        takes = _a_batch_drawn_twice(service)
    befallen = _what_befell_pushes(data)
    drawings = _each_was_committed_once(jobs)
    # a worker has at most two jobs in hand: one is drawn while the former is being stored
    assert JOBS < drawings <= JOBS + 2 * len(killed)
    assert befallen["push_lost"]
    assert befallen["push_doubled"]
    print(
        f"\n{JOBS} jobs, {len(killed)} workers killed, {dict(befallen)}: "
        f"{dict(Counter(job['status'] for job in jobs))}, {drawings} drawings begun, "
        f"attempts {dict(Counter(job['attempt'] for job in jobs))}; "
        f"a batch of {SCENES} drawn twice: {takes} takes"
    )


def _kill_workers(service: Service, ids: list[str]) -> list[int]:
    """Kill a worker three times while both draw, each time after some more jobs have ended."""
    killed: list[int] = []
    for round in range(1, KILLS + 1):
        service.until(
            lambda: (_running(service), _ended(service)),
            lambda seen, wanted=round * 8: seen[0] == WORKERS and seen[1] >= wanted,
            240,
        )
        killed.append(service.kill("worker"))
    assert len(set(killed)) == KILLS
    return killed


def _running(service: Service) -> int:
    return len(service.get("/v1/jobs?status=running&limit=10")["data"])


def _ended(service: Service) -> int:
    return len(service.get("/v1/jobs?status=succeeded&limit=200")["data"])


def _each_was_committed_once(jobs: list[dict[str, Any]]) -> int:
    """Assert that every job succeeded, once; return how often drawing was begun."""
    assert Counter(job["status"] for job in jobs) == {"succeeded": JOBS}
    drawings = 0
    for job in jobs:
        events = [moment["event"] for moment in job["timeline"]]
        assert events.count("succeeded") == 1
        assert events[-1] == "succeeded"
        starts = events.count("claimed") + events.count("stolen")
        assert starts == job["attempt"]
        drawings += starts
    return drawings


def _the_picture_is_whole(service: Service, job: dict[str, Any]) -> None:
    assert len(job["images"]) == 1
    assert hashlib.sha256(service.image(job)).hexdigest() == job["images"][0]["sha256"]


def _a_batch_drawn_twice(service: Service) -> int:
    """Draw a batch, then all of it again with new seeds; return how many takes there are."""
    batch = service.post("/v1/batches", {
        "title": "Mia", "defaults": {"width": 64, "height": 64, "steps": 2},
        "scenes": [{"key": f"p{n}", "prompt": f"Mia on page {n}"} for n in range(SCENES)],
    })["id"]  # fmt: skip
    assert completed(service, batch)["status"] == "completed"
    first = {key: scene["accepted"]["job"] for key, scene in scenes_of(service, batch).items()}
    again = service.post(f"/v1/batches/{batch}/reprocess", {"select": {"all": True}, "seed": "new"})
    assert len(again["jobs"]) == SCENES
    assert completed(service, batch)["status"] == "completed"
    scenes = scenes_of(service, batch)
    assert all(scene["accepted"]["job"] != first[key] for key, scene in scenes.items())
    return sum(scene["newest"]["take"] for scene in scenes.values())


def _what_befell_pushes(data: Path) -> Counter[str]:
    log = (data / "logs" / "push-proxy.log").read_text().splitlines()
    told = Counter(json.loads(line)["message"] for line in log if line.startswith("{"))
    return Counter({name: told[name] for name in ("push_lost", "push_doubled", "push_delayed")})
