"""Batches that meet trouble: damaged references, a killed API, two people at once."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.pictures import a_picture
from tests.service import Service, running

pytestmark = pytest.mark.slow

SMALL = {"width": 64, "height": 64, "steps": 2}


def completed(service: Service, batch: str, within: float = 120) -> dict[str, Any]:
    return service.until(
        lambda: service.get(f"/v1/batches/{batch}"),
        lambda seen: seen["status"] not in ("accepting", "running"),
        within,
    )


def scenes_of(service: Service, batch: str) -> dict[str, dict[str, Any]]:
    """Read all scenes of a batch, by key."""
    scenes, cursor = {}, ""
    while True:
        page = service.get(f"/v1/batches/{batch}/scenes?limit=200{cursor}")
        scenes |= {scene["key"]: scene for scene in page["data"]}
        if not page["next_cursor"]:
            return scenes
        cursor = f"&cursor={page['next_cursor']}"


def stored_file(data: Path, content: bytes) -> Path:
    """Find where the bytes of an artifact lie."""
    found = [
        file
        for file in (data / "artifacts").rglob("*")
        if file.is_file() and file.read_bytes() == content
    ]
    assert len(found) == 1
    return found[0]


def test_what_failed_is_drawn_again_and_nothing_else(tmp_path: Path, weights: str) -> None:
    with running(tmp_path / "data", weights=weights, sweep_seconds="0.5") as service:
        good, bad = service.upload(a_picture("gold")), service.upload(a_picture("navy"))
        file = stored_file(service.data, service.request("GET", f"/v1/assets/{bad}/content").data)
        whole = file.read_bytes()
        file.write_bytes(whole[:-20] + b"\0" * 20)
        spoiled = {"p07", "p21", "p48"}
        batch = service.post("/v1/batches", {
            "title": "Fifty", "defaults": {**SMALL, "references": [good]},
            "scenes": [
                {"key": f"p{i:02}", "prompt": f"Scene {i}"}
                | ({"references": [bad]} if f"p{i:02}" in spoiled else {})
                for i in range(50)
            ],
        })["id"]  # fmt: skip
        seen = completed(service, batch)
        assert seen["status"] == "completed_with_failures"
        assert seen["counts"]["succeeded"] == 47
        assert seen["counts"]["failed"] == 3
        before = scenes_of(service, batch)
        codes = {
            key: service.get(f"/v1/jobs/{scene['newest']['job']}")["error"]["code"]
            for key, scene in before.items()
            if scene["newest"]["status"] == "failed"
        }
        assert codes == dict.fromkeys(spoiled, "reference_damaged")

        file.write_bytes(whole)
        path = f"/v1/batches/{batch}/reprocess"
        dry = service.post(path, {"select": {"status": ["failed"]}, "dry_run": True})
        assert dry["selected"] == 3
        again = service.post(path, {"select": {"status": ["failed"]}})
        assert (again["selected"], len(again["jobs"]), again["skipped"]) == (3, 3, [])
        assert completed(service, batch)["status"] == "completed"
        after = scenes_of(service, batch)
        for key, scene in after.items():
            assert scene["newest"]["take"] == (2 if key in spoiled else 1)
            assert key in spoiled or scene["accepted"] == before[key]["accepted"]

        edited = service.request(
            "PUT", f"/v1/batches/{batch}/scenes/p03", json={"prompt": "Quite another scene"}
        )
        assert edited.status == 200, edited.data
        assert service.get(f"/v1/batches/{batch}")["stale"] == 1
        stale = service.post(path, {"select": {"stale": True}})
        assert (stale["selected"], stale["skipped"]) == (1, [])
        completed(service, batch)
        assert scenes_of(service, batch)["p03"]["newest"]["take"] == 2
        assert service.get(f"/v1/batches/{batch}")["stale"] == 0

        _two_at_once_share_no_take(service, batch, path)


def _two_at_once_share_no_take(service: Service, batch: str, path: str) -> None:
    body = {"select": {"all": True}, "force": True, "seed": "new"}
    with ThreadPoolExecutor(2) as people:
        answers = list(people.map(lambda _: service.post(path, body), range(2)))
    jobs = [job for answer in answers for job in answer["jobs"]]
    assert len(jobs) == len(set(jobs))
    assert (
        sum(answer["selected"] for answer in answers)
        + sum(len(answer["skipped"]) for answer in answers)
        == 100
    )
    completed(service, batch)


def test_five_thousand_scenes_are_expanded_through_a_killed_api(
    tmp_path: Path, weights: str
) -> None:
    with running(tmp_path / "data", weights=weights, sweep_seconds="0.5") as service:
        scenes = [{"key": f"s{i:04}", "prompt": f"Scene {i}"} for i in range(5000)]
        body = {"title": "Long", "defaults": SMALL, "scenes": scenes}
        batch = service.post("/v1/batches", body, key="long")["id"]
        partly = service.until(
            lambda: sum(service.get(f"/v1/batches/{batch}")["counts"].values()),
            lambda count: count > 0,
        )
        service.kill("api")
        whole = service.until(
            lambda: service.get(f"/v1/batches/{batch}"),
            lambda seen: seen["status"] != "accepting",
            120,
        )
        assert partly < 5000
        assert sum(whole["counts"].values()) == whole["scene_count"] == 5000
        assert service.post("/v1/batches", body, key="long")["id"] == batch
        service.post(f"/v1/batches/{batch}/cancel", {})
        ended = completed(service, batch)
        assert sum(ended["counts"].values()) == 5000
        assert set(+Counter(ended["counts"])) <= {"succeeded", "canceled"}
        woken = [
            event["woken"]
            for line in (service.data / "logs" / "api.log").read_text().splitlines()
            if line.startswith("{") and (event := json.loads(line))["message"] == "swept"
        ]
        assert woken, "no sweep repaired anything, though the expansion was cut short"
        assert max(woken) <= 2
