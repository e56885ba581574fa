"""Idempotency-Key: one job and one answer, however often a request comes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.http.conftest import House, a_picture, an_upload, drawn

KEY = {"Idempotency-Key": "page-1"}


def post(client: FlaskClient, body: object, **headers: str) -> Any:
    return client.post("/v1/jobs", json=body, headers=KEY | headers)


def count(house: House) -> int:
    return len(house.client.get("/v1/jobs?limit=200").json["data"])


def test_fifty_equal_requests_at_once_make_one_job_and_get_one_answer(house: House) -> None:
    callers = 50
    app = house.client.application
    together = threading.Barrier(callers)

    def call(_: int) -> Any:
        client = app.test_client()
        together.wait()
        return post(client, {"prompt": "Mia", "steps": 4})

    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(call, range(callers)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.data for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    replayed = [answer.headers.get("Idempotency-Replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None] + ["true"] * 49
    assert count(house) == 1
    assert len(house.publisher.wakes) == 1


def test_the_first_answer_is_given_again_after_the_job_went_on(house: House) -> None:
    first = post(house.client, {"prompt": "Mia"})
    drawn(house, first.json["id"])
    again = post(house.client, {"prompt": "Mia"})
    assert (again.status_code, again.data) == (first.status_code, first.data)
    same = ("Content-Type", "Location", "Retry-After")
    assert [again.headers[name] for name in same] == [first.headers[name] for name in same]
    assert again.headers["Idempotency-Replayed"] == "true"


def test_equal_bodies_may_be_written_differently(house: House) -> None:
    headers = KEY | {"Content-Type": "application/json"}
    written = b'{"steps":4,"prompt":"\\u004dia"}', b' { "prompt" : "Mia", "steps" : 4 } '
    first, second = (house.client.post("/v1/jobs", data=b, headers=headers) for b in written)
    assert first.data == second.data
    assert count(house) == 1


@pytest.mark.parametrize("other", [{"prompt": "Mio"}, {"prompt": "Mia", "steps": 28}])
def test_a_key_with_another_body_is_refused(house: House, other: object) -> None:
    post(house.client, {"prompt": "Mia"})
    answer = post(house.client, other)
    assert (answer.status_code, answer.json["code"]) == (422, "idempotency_mismatch")
    assert count(house) == 1


def test_a_refusal_is_not_recorded(house: House) -> None:
    assert post(house.client, {"prompt": ""}).status_code == 422
    answer = post(house.client, {"prompt": "Mia"})
    assert answer.status_code == 202
    assert "Idempotency-Replayed" not in answer.headers


def test_another_key_is_another_job(house: House) -> None:
    for key in ("a", "b"):
        post(house.client, {"prompt": "Mia"}, **{"Idempotency-Key": key})
    assert count(house) == 2


def test_a_key_is_forgotten_after_a_day(house: House) -> None:
    first = post(house.client, {"prompt": "Mia"})
    house.clock.advance(timedelta(hours=24) - timedelta(seconds=1))
    assert post(house.client, {"prompt": "Mia"}).data == first.data
    house.clock.advance(timedelta(seconds=1))
    assert post(house.client, {"prompt": "Mia"}).data != first.data
    assert count(house) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x01b"])
def test_a_key_that_is_none_is_refused(house: House, key: str) -> None:
    answer = post(house.client, {"prompt": "Mia"}, **{"Idempotency-Key": key})
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_header")
    assert count(house) == 0


def test_a_key_may_be_as_long_as_the_limit(house: House) -> None:
    answer = post(house.client, {"prompt": "Mia"}, **{"Idempotency-Key": "x" * 255})
    assert answer.status_code == 202


def test_a_key_belongs_to_one_path(house: House) -> None:
    first = drawn(house, post(house.client, {"prompt": "Mia"}).json["id"])
    again = house.client.post(f"/v1/jobs/{first.id}/retry", headers=KEY)
    assert again.status_code == 202
    assert again.json["retry_of"] == first.id


def test_a_retry_with_a_key_is_done_once(house: House) -> None:
    job = drawn(house, house.have().id)
    answers = [house.client.post(f"/v1/jobs/{job.id}/retry", headers=KEY) for _ in range(2)]
    assert answers[0].data == answers[1].data
    assert count(house) == 2


def test_a_repeated_cancel_answers_as_it_did_at_first(house: House) -> None:
    job = house.have()
    path = f"/v1/jobs/{job.id}/cancel"
    first = house.client.post(path, headers=KEY)
    again = house.client.post(path, headers=KEY)
    assert (again.status_code, again.data) == (200, first.data)
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_repeated_upload_is_created_again(house: House) -> None:
    first = an_upload(house.client, a_picture(), **KEY)
    again = an_upload(house.client, a_picture(), **KEY)
    assert (again.status_code, again.data) == (201, first.data)
    other = an_upload(house.client, a_picture(colour="blue"), **KEY)
    assert (other.status_code, other.json["code"]) == (422, "idempotency_mismatch")
