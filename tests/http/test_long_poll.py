"""Waiting for a job to change, with a clock that only a test moves."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from werkzeug.datastructures import Headers

from api.app import create_app
from api.long_poll import LongPolls
from api.watch import preferred_wait
from shared.jobs import cancel
from tests.builders import TERMS, WEIGHTS
from tests.http.conftest import House, claimed, drawn


class Pauses(threading.Event):
    """Stands for the server's closing: each pause passes at once, and something happens in it."""

    def __init__(self, *events: Callable[[], Any]) -> None:
        super().__init__()
        self.events, self.taken = list(events), 0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.taken += 1
        assert self.taken < 5000, "it waits for ever"
        if self.events:
            self.events.pop(0)()
        return self.is_set()


def waiting(house: House, *events: Callable[[], Any]) -> tuple[Any, Pauses]:
    pauses = Pauses(*events)
    app = create_app(house.backends, house.settings, WEIGHTS, closing=pauses)
    return app.test_client(), pauses


def nothing() -> None:
    pass


def test_a_poll_ends_when_the_job_changes(house: House) -> None:
    job = house.have()
    client, pauses = waiting(house, nothing, partial(claimed, house, job.id))
    answer = client.get(f"/v1/jobs/{job.id}?wait=60")
    assert (answer.status_code, answer.json["status"]) == (200, "running")
    assert pauses.taken == 2


def test_a_poll_for_an_ended_job_is_answered_at_once(house: House) -> None:
    job = drawn(house, house.have().id)
    client, pauses = waiting(house)
    assert client.get(f"/v1/jobs/{job.id}?wait=60").json["status"] == "succeeded"
    assert pauses.taken == 0


def test_a_poll_with_an_etag_waits_for_another(house: House) -> None:
    job = house.have()
    etag = {"If-None-Match": house.client.get(f"/v1/jobs/{job.id}").headers["ETag"]}
    client, pauses = waiting(house, nothing, nothing, partial(claimed, house, job.id))
    answer = client.get(f"/v1/jobs/{job.id}?wait=60", headers=etag)
    assert (answer.status_code, answer.json["status"]) == (200, "running")
    assert pauses.taken == 3


def test_a_poll_with_an_old_etag_is_answered_at_once(house: House) -> None:
    job = house.have()
    client, pauses = waiting(house)
    answer = client.get(f"/v1/jobs/{job.id}?wait=60", headers={"If-None-Match": '"old"'})
    assert (answer.status_code, pauses.taken) == (200, 0)


def test_a_poll_for_an_ended_job_that_the_caller_has_is_answered_at_once(house: House) -> None:
    job = drawn(house, house.have().id)
    etag = {"If-None-Match": house.client.get(f"/v1/jobs/{job.id}").headers["ETag"]}
    client, pauses = waiting(house)
    assert client.get(f"/v1/jobs/{job.id}?wait=60", headers=etag).status_code == 304
    assert pauses.taken == 0


def test_a_poll_in_which_nothing_happens_ends_with_the_job_as_it_is(house: House) -> None:
    # the real clock: one second is the shortest wait that there is
    job = house.have()
    etag = {"If-None-Match": house.client.get(f"/v1/jobs/{job.id}").headers["ETag"]}
    assert house.client.get(f"/v1/jobs/{job.id}?wait=1", headers=etag).status_code == 304
    answer = house.client.get(f"/v1/jobs/{job.id}?wait=1")
    assert (answer.status_code, answer.json["version"]) == (200, 1)


def test_a_poll_ends_when_the_server_closes(house: House) -> None:
    job = house.have()
    client, pauses = waiting(house)
    pauses.events.append(pauses.set)
    assert client.get(f"/v1/jobs/{job.id}?wait=60").status_code == 200
    assert pauses.taken == 1


def test_a_job_that_is_deleted_under_a_poll_is_gone(house: House) -> None:
    job = house.have()

    def disappear() -> None:
        house.client.post(f"/v1/jobs/{job.id}/cancel")
        house.client.delete(f"/v1/jobs/{job.id}")

    client, _ = waiting(house, disappear)
    assert client.get(f"/v1/jobs/{job.id}?wait=60").status_code == 410


@pytest.mark.parametrize("wait", ["61", "-1", "1.5", "x", ""])
def test_a_wait_beyond_the_limit_is_refused(house: House, wait: str) -> None:
    assert house.client.get(f"/v1/jobs/{house.have().id}?wait={wait}").status_code == 422


def test_half_of_the_threads_wait_and_the_next_is_answered_at_once() -> None:
    closing = threading.Event()
    polls = LongPolls(places=2, closing=closing)
    inside = threading.Barrier(3)
    looks = threading.local()

    def look() -> str:
        looks.count = getattr(looks, "count", 0) + 1
        if looks.count == 2:  # it has a place, and has waited once
            inside.wait(20)
        return "same"

    def wait() -> None:
        polls.wait_until(lambda seen: seen == "other", look, timeout=timedelta(seconds=60))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(20)
    seen: list[str] = []
    third = polls.wait_until(
        lambda _: False, lambda: seen.append("look") or "same", timeout=timedelta(seconds=60)
    )
    assert (third, seen) == ("same", ["look"])
    closing.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_place_is_free_again_after_a_poll_that_failed() -> None:
    closing = Pauses()
    polls = LongPolls(places=1, closing=closing)
    for failed in (1, 2):
        looks = iter(["first"])
        with pytest.raises(StopIteration):
            polls.wait_until(lambda _: False, partial(next, looks), timeout=timedelta(seconds=60))
        assert closing.taken == failed


@pytest.mark.parametrize(("threads", "places"), [(2, 1), (3, 1), (16, 8)])
def test_the_app_lets_half_of_its_threads_wait(house: House, threads: int, places: int) -> None:
    house = house.with_settings(http_threads=threads)
    job = house.have()
    nested: list[int] = []
    client: Any = None

    def ask_again() -> None:  # from inside a pause: another request while this one waits
        nested.append(len(nested))
        client.get(f"/v1/jobs/{job.id}?wait=60")
        pauses.events.clear()
        pauses.set()

    client, pauses = waiting(house, *[ask_again] * (places + 1))
    client.get(f"/v1/jobs/{job.id}?wait=60")
    assert len(nested) == places


def test_a_submission_may_wait_for_the_end(house: House) -> None:
    def draw() -> None:
        drawn(house, house.publisher.wakes[0].job)

    client, pauses = waiting(house, nothing, draw)
    answer = client.post("/v1/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json["status"]) == (201, "succeeded")
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json['id']}"
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert pauses.taken == 2


def test_a_submission_that_is_not_done_in_time_is_accepted(house: House) -> None:
    client, pauses = waiting(house)
    pauses.events.append(pauses.set)
    answer = client.post("/v1/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert "Preference-Applied" not in answer.headers


def test_a_canceled_job_ends_the_wait_too(house: House) -> None:
    def end() -> None:
        house.backends.jobs.update(house.publisher.wakes[0].job, partial(cancel, terms=TERMS))

    client, _ = waiting(house, end)
    answer = client.post("/v1/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json["status"]) == (201, "canceled")


def test_with_an_idempotency_key_the_first_answer_is_the_acceptance(house: House) -> None:
    client, pauses = waiting(house)
    headers = {"Prefer": "wait=30", "Idempotency-Key": "k"}
    first, again = (client.post("/v1/jobs", json={"prompt": "a"}, headers=headers) for _ in "ab")
    assert (first.status_code, again.status_code, pauses.taken) == (202, 202, 0)
    assert first.data == again.data


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=10", 10),
        ("wait=60", 60),
        ("wait=61", 60),
        ("wait=999999", 60),
        ("wait=0", 0),
        ('respond-async, WAIT = "10"', 10),
        ("return=minimal; wait=5", 5),
        ("", 0),
        ("wait=", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=x", 0),
        ("await=5", 0),
        ("wait=" + "9" * 5000, 0),
    ],
)
def test_a_preference_is_read_or_passed_over(prefer: str, seconds: int) -> None:
    assert preferred_wait(Headers({"Prefer": prefer})) == timedelta(seconds=seconds)
