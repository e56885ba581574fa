"""Reading, listing, canceling, retrying and deleting jobs."""

from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial

import pytest
from flask.testing import FlaskClient

from shared.jobs import renew
from shared.vocabulary import Metrics, Phase, Priority, Progress, Status
from tests.builders import NOW, TERMS, a_reference, a_scene
from tests.http.conftest import House, claimed, drawn, pointers

UNKNOWN = ["job_" + "a" * 26, "job_1", "nonsense", "job_" + "A" * 26, "%00", "%ED%A0%80", "ü"]


@pytest.mark.parametrize("id", UNKNOWN)
def test_an_unknown_job_is_not_found(client: FlaskClient, id: str) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("GET", "/images/0"),
    ):
        answer = client.open(f"/v1/jobs/{id}{path}", method=method)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_the_job_of_another_tenant_is_not_found(house: House) -> None:
    job = house.have(tenant="ada")
    assert house.client.get(f"/v1/jobs/{job.id}").status_code == 404
    assert house.client.post(f"/v1/jobs/{job.id}/cancel").status_code == 404
    assert house.client.get("/v1/jobs").json["data"] == []


def test_a_running_job_tells_how_far_it_is(house: House) -> None:
    job = claimed(house, house.have().id)
    assert job.lease
    progress = Progress(phase=Phase.DENOISING, step=1, steps=4)
    change = partial(renew, lease=job.lease, progress=progress, terms=TERMS)
    house.backends.jobs.update(job.id, change)
    told = house.client.get(f"/v1/jobs/{job.id}").json
    assert (told["status"], told["attempt"]) == ("running", 1)
    assert told["progress"] == {"phase": "denoising", "step": 1, "steps": 4, "fraction": 0.25}
    assert told["started_at"] == "2026-03-01T12:00:00Z"
    assert told["queue"] == {"position": 0, "reason": None, "eta": None}
    assert [moment["event"] for moment in told["timeline"]] == ["claimed"]


def test_a_finished_job_shows_its_images_and_its_cost(house: House) -> None:
    house = house.with_settings(price_per_gpu_second=0.001)
    job = drawn(house, house.have().id, gpu_seconds=2.5)
    told = house.client.get(f"/v1/jobs/{job.id}").json
    assert told["status"] == "succeeded"
    assert told["cost"] == {"currency": "USD", "amount": 0.0025}
    assert told["metrics"]["gpu_seconds"] == 2.5
    assert told["queue"] is None
    [image] = told["images"]
    assert image["url"] == f"/v1/jobs/{job.id}/images/0"
    assert (image["index"], image["width"], image["height"]) == (0, 64, 64)
    answer = house.client.get(image["url"])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == image["content_type"] == "image/png"
    assert len(answer.data) == image["bytes"]
    assert answer.headers["ETag"] == f'"{image["sha256"]}"'
    assert "immutable" in answer.headers["Cache-Control"]


def test_a_job_tells_what_its_last_attempt_took(house: House) -> None:
    took = Metrics(
        gpu_seconds=40.0, stages={"denoising": 30.0, "image_encoding": 0.1}, steps=12,
        steps_per_second=0.4, resumed_at=16, peak_bytes=21_000_000_000, remembered=2,
        unread_tokens=7,
    )  # fmt: skip
    job = house.have(status=Status.SUCCEEDED, metrics=took)
    told = house.client.get(f"/v1/jobs/{job.id}").json["metrics"]
    assert told == asdict(took)
    waiting = house.client.get(f"/v1/jobs/{house.have().id}").json["metrics"]
    assert waiting == {"gpu_seconds": 0.0} | dict.fromkeys(told.keys() - {"gpu_seconds"})


def test_without_a_price_the_cost_is_not_known(house: House) -> None:
    job = drawn(house, house.have().id)
    assert house.client.get(f"/v1/jobs/{job.id}").json["cost"]["amount"] is None


def test_an_image_that_the_caller_has_is_not_sent_again(house: House) -> None:
    job = drawn(house, house.have().id)
    path = f"/v1/jobs/{job.id}/images/0"
    etag = house.client.get(path).headers["ETag"]
    for had in (etag, f"W/{etag}", f'"other", W/{etag}', "*"):
        answer = house.client.get(path, headers={"If-None-Match": had})
        assert (answer.status_code, answer.data) == (304, b"")
    assert house.client.get(path, headers={"If-None-Match": 'W/"other"'}).status_code == 200


@pytest.mark.parametrize("index", ["1", "-1", "x", "00001", "9" * 5000, "١", "1.0", "%00"])
def test_an_image_that_there_is_not_is_not_found(house: House, index: str) -> None:
    job = drawn(house, house.have().id)
    assert house.client.get(f"/v1/jobs/{job.id}/images/{index}").status_code == 404


def test_an_image_is_fetched_where_the_backend_serves_it(house: House) -> None:
    class Linked:
        def url(self, name: str, generation: int) -> str:
            return f"https://images.example/{name}?g={generation}"

    job = drawn(house, house.have().id)
    linked = replace(house.backends, artifacts=Linked())  # type: ignore[arg-type]
    answer = house.client_over(linked).get(f"/v1/jobs/{job.id}/images/0")
    image = job.images[0]
    assert answer.status_code == 302
    assert answer.headers["Location"] == (
        f"https://images.example/{image.artifact}?g={image.generation}"
    )


def test_a_job_that_the_caller_has_is_not_sent_again(house: House) -> None:
    job = house.have()
    first = house.client.get(f"/v1/jobs/{job.id}")
    etag = first.headers["ETag"]
    same = house.client.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": etag})
    assert (same.status_code, same.data, same.headers["ETag"]) == (304, b"", etag)
    claimed(house, job.id)
    changed = house.client.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag


def test_a_list_is_newest_first_and_says_where_it_continues(house: House) -> None:
    made = [house.have(created_at=NOW + timedelta(seconds=n)).id for n in range(5)]
    seen: list[str] = []
    path: str | None = "/v1/jobs?limit=2&status=queued"
    while path:
        answer = house.client.get(path)
        seen += [job["id"] for job in answer.json["data"]]
        link = answer.headers.get("Link")
        assert (answer.json["next_cursor"] is None) == (link is None)
        path = link.removeprefix("<").partition(">")[0] if link else None
    assert seen == made[::-1]


def test_pages_do_not_shift_while_jobs_are_added(house: House) -> None:
    made = [house.have(created_at=NOW + timedelta(seconds=n)).id for n in range(4)]
    first = house.client.get("/v1/jobs?limit=2").json
    house.have(created_at=NOW + timedelta(minutes=1))
    rest = house.client.get(f"/v1/jobs?limit=2&cursor={first['next_cursor']}").json
    assert [job["id"] for job in first["data"] + rest["data"]] == made[::-1]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"high", "old", "book", "batch", "failed"}),
        ("status=failed", {"failed"}),
        ("batch=bat_1", {"batch"}),
        ("batch=bat_2", set()),
        ("metadata[book]=42", {"book"}),
        ("metadata[book]=4", set()),
        ("metadata%5Bbook%5D=42", {"book"}),
        ("metadata[a.b]c]=%22", {"high"}),
        ("created_after=2026-03-01T11:00:00Z", {"high", "book", "batch", "failed"}),
        ("created_after=2026-03-01T12:00:00%2B01:00", {"high", "book", "batch", "failed"}),
        ("status=queued&created_after=2026-03-01T11:00:00Z", {"high", "book", "batch"}),
        ("limit=200", {"high", "old", "book", "batch", "failed"}),
    ],
)
def test_a_list_is_filtered(house: House, query: str, found: set[str]) -> None:
    made = {
        "high": house.have(priority=Priority.HIGH, metadata={"a.b]c": '"'}),
        "old": house.have(created_at=NOW - timedelta(hours=1)),
        "book": house.have(metadata={"book": "42"}),
        "batch": house.have(batch="bat_1", scene_key="p1", take=1),
        "failed": house.have(status=Status.FAILED),
    }
    listed = {job["id"] for job in house.client.get(f"/v1/jobs?{query}").json["data"]}
    assert listed == {made[name].id for name in found}


def test_a_batchs_job_tells_its_place(house: House) -> None:
    job = house.have(batch="bat_1", scene_key="p1", take=2)
    told = house.client.get(f"/v1/jobs/{job.id}").json
    assert told["batch"] == {"id": "bat_1", "scene": "p1", "take": 2}


def test_canceling_a_waiting_job_ends_it(house: House) -> None:
    job = house.have()
    answer = house.client.post(f"/v1/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json["status"]) == (200, "canceled")
    again = house.client.post(f"/v1/jobs/{job.id}/cancel")
    assert (again.status_code, again.json) == (200, answer.json)


def test_canceling_a_running_job_is_a_wish(house: House) -> None:
    job = claimed(house, house.have().id)
    answer = house.client.post(f"/v1/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json["status"]) == (200, "running")
    assert answer.json["cancel_requested_at"] == "2026-03-01T12:00:00Z"


def test_canceling_an_ended_job_answers_it_as_it_is(house: House) -> None:
    job = drawn(house, house.have().id)
    answer = house.client.post(f"/v1/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json["version"]) == (200, job.version)


def test_a_cancel_takes_no_body_but_an_empty_one(house: House) -> None:
    path = f"/v1/jobs/{house.have().id}/cancel"
    refused = house.client.post(path, json={"reason": "changed my mind"})
    assert (refused.status_code, pointers(refused)) == (422, ["/reason"])
    assert house.client.post(path, json={}).status_code == 200


def test_a_retry_is_a_new_job_for_the_same_picture(house: House) -> None:
    scene = a_scene("Mia", seed=99, count=2)
    failed = house.have(
        status=Status.FAILED, scene=scene, metadata={"book": "42"}, priority=Priority.LOW
    )
    answer = house.client.post(f"/v1/jobs/{failed.id}/retry")
    job = answer.json
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["id"] != failed.id
    assert (job["retry_of"], job["status"]) == (failed.id, "queued")
    assert (job["input"]["seed"], job["input"]["count"]) == (99, 2)
    assert (job["metadata"], job["priority"]) == ({"book": "42"}, "low")
    assert [wake.job for wake in house.publisher.wakes] == [job["id"]]


def test_a_job_that_goes_on_is_not_retried(house: House) -> None:
    for job in (house.have(), claimed(house, house.have().id)):
        answer = house.client.post(f"/v1/jobs/{job.id}/retry")
        assert (answer.status_code, answer.json["code"]) == (409, "job_active")
    assert house.publisher.wakes == []


def test_a_job_whose_reference_was_deleted_is_not_retried(house: House) -> None:
    failed = house.have(status=Status.FAILED, scene=a_scene(references=(a_reference(),)))
    answer = house.client.post(f"/v1/jobs/{failed.id}/retry")
    assert (answer.status_code, answer.json["code"]) == (409, "reference_deleted")


def test_a_deleted_job_leaves_a_tombstone(house: House) -> None:
    job = drawn(house, house.have().id)
    answer = house.client.delete(f"/v1/jobs/{job.id}")
    assert (answer.status_code, answer.data) == (204, b"")
    for method, path in (
        ("GET", ""),
        ("GET", "/images/0"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ):
        gone = house.client.open(f"/v1/jobs/{job.id}{path}", method=method)
        assert (gone.status_code, gone.json["code"]) == (410, "deleted")
    assert house.client.get("/v1/jobs").json["data"] == []
    tombstone = house.backends.jobs.get(job.id)
    assert tombstone.cleanup_due == NOW


def test_a_job_that_goes_on_is_not_deleted(house: House) -> None:
    for job in (house.have(), claimed(house, house.have().id)):
        answer = house.client.delete(f"/v1/jobs/{job.id}")
        assert (answer.status_code, answer.json["code"]) == (409, "job_active")
        assert house.client.get(f"/v1/jobs/{job.id}").status_code == 200


def test_a_retry_of_a_batchs_job_is_a_new_take(house: House) -> None:
    client = house.client
    batch = {"scenes": [{"key": "p1", "prompt": "Mia wakes up"}]}
    id = client.post("/v1/batches", json=batch).json["id"]
    [job] = client.get(f"/v1/jobs?batch={id}").json["data"]
    refused = client.post(f"/v1/jobs/{job['id']}/retry")
    assert (refused.status_code, refused.json["code"]) == (409, "job_active")
    client.post(f"/v1/jobs/{job['id']}/cancel")
    key = {"Idempotency-Key": "again"}
    answer = client.post(f"/v1/jobs/{job['id']}/retry", headers=key)
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert answer.json["batch"] == {"id": id, "scene": "p1", "take": 2}
    assert answer.json["input"] == job["input"]
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json['id']}"
    again = client.post(f"/v1/jobs/{job['id']}/retry", headers=key)
    assert (again.data, again.headers["Idempotency-Replayed"]) == (answer.data, "true")
    other = client.post(f"/v1/jobs/{job['id']}/retry")
    assert (other.status_code, other.json["code"]) == (409, "in_progress")
    assert house.publisher.wakes[-1].job == answer.json["id"]
