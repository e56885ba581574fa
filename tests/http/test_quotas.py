"""Quotas over HTTP: who is refused, what is told, and that a refusal leaves nothing behind."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from api.reprocess import CHUNK
from shared.embedded.database import Database
from shared.embedded.usage import _QUEUED
from shared.errors import StoreUnavailable
from shared.ports import IdempotencyRecord
from shared.quotas import Usage
from shared.vocabulary import Metrics, Status
from shared.workers import WorkerState
from tests.builders import NOW, a_worker
from tests.http.conftest import LOCAL, House, a_picture, an_upload, pointers
from tests.http.stories import (
    SMALL,
    expand_all,
    newest_job,
    spoil,
    start,
    submit,
    submitted,
)

JOBS = "/v1/jobs"
FIELDS = ("RateLimit", "RateLimit-Policy")
MIDNIGHT_IN = 12 * 3600  # the clock stands at noon
Send = Callable[[House], Any]


def limited(house: House, **quota: float) -> House:
    return house.with_settings(**{f"quota_{limit}": most for limit, most in quota.items()})


def send_job(client: FlaskClient, *, key: str | None = None, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(JOBS, json={"prompt": "Mia", **SMALL, **body}, headers=headers)


def reprocess(client: FlaskClient, batch: str, *, key: str | None = None, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    wish = {"select": {"all": True}} | body
    return client.post(f"{batch}/reprocess", json=wish, headers=headers)


def read(client: FlaskClient, path: str) -> Any:
    return client.get(path).json


def spoiled(house: House, count: int) -> str:
    """A batch whose scenes all failed, so that each wants another take; its path."""
    keys = [f"p{n:03}" for n in range(count)]
    client = house.client
    batch = submitted(client, *keys)
    expand_all(house)
    for key in keys:
        spoil(house, newest_job(client, batch, key))
    return batch


def used(house: House) -> Usage:
    return house.backends.jobs.usage(LOCAL)


def everything(house: House) -> list[tuple[Any, ...]]:
    """Every row of every table."""
    database = cast(Any, house.backends.jobs)._database
    with cast(Database, database).read() as connection:
        named = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [name for (name,) in named]
        return [row for name in tables for row in connection.execute(f"SELECT * FROM {name}")]


def artifacts(house: House) -> list[Path]:
    return sorted((house.settings.data / "artifacts").rglob("*.*"))


# --- the ways to submit -------------------------------------------------------------------------


def by_job(house: House) -> Any:
    return send_job(house.client, key="k")


def by_retry(house: House) -> Any:
    job = failed_for("retry", house)["id"]
    return house.client.post(f"{JOBS}/{job}/retry", json={}, headers={"Idempotency-Key": "k"})


def by_batch(house: House) -> Any:
    return submit(house.client, "p1", headers={"Idempotency-Key": "k"})


def by_reprocess(house: House) -> Any:
    batch = failed_for("batch", house)["batch"]["id"]
    return reprocess(house.client, f"/v1/batches/{batch}", key="k")


def by_retake(house: House) -> Any:
    job = failed_for("batch", house)["id"]
    return house.client.post(f"{JOBS}/{job}/retry", json={}, headers={"Idempotency-Key": "k"})


def failed_for(purpose: str, house: House) -> dict[str, Any]:
    [job] = read(house.client, f"{JOBS}?status=failed&metadata[for]={purpose}")["data"]
    return cast(dict[str, Any], job)


WAYS = [by_job, by_retry, by_batch, by_reprocess, by_retake]


@pytest.fixture
def ready(house: House) -> House:
    """An ended job and a batch with a failed scene, so that every way to submit is open."""
    house.have(status=Status.FAILED, metadata={"for": "retry"})
    batch = submitted(house.client, "p000", metadata={"for": "batch"})
    spoil(house, newest_job(house.client, batch, "p000"))
    return house


@pytest.mark.parametrize("send", WAYS)
@pytest.mark.parametrize(
    ("quota", "retry_after"),
    [
        ({"queued_jobs": 1}, 60),
        ({"jobs_per_day": 3}, MIDNIGHT_IN),
        ({"gpu_seconds_per_day": 5}, MIDNIGHT_IN),
    ],
)
def test_whoever_asks_for_more_than_the_quota_is_refused_and_nothing_is_left_behind(
    ready: House, send: Send, quota: dict[str, float], retry_after: int
) -> None:
    ready.have(metrics=Metrics(gpu_seconds=5.0))
    full = limited(ready, **quota)
    rows, files, wakes = everything(ready), artifacts(ready), list(ready.publisher.wakes)
    answer = send(full)
    assert answer.status_code == 429, answer.json
    assert answer.headers["Retry-After"] == str(retry_after)
    assert (answer.json["code"], answer.json["status"]) == ("quota_exceeded", 429)
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "quota_exceeded")
    [limit] = quota
    assert answer.headers["RateLimit"].startswith(f'"{limit}";r=0')
    assert answer.headers["RateLimit-Policy"].startswith(f'"{limit}";q={quota[limit]}')
    assert everything(ready) == rows
    assert artifacts(ready) == files
    assert ready.publisher.wakes == wakes
    accepted = send(limited(ready, **dict.fromkeys(quota, 100)))  # the same key, once there is room
    assert accepted.status_code == 202, accepted.json


@pytest.mark.parametrize("send", WAYS)
def test_an_accepted_answer_is_given_again_from_a_full_quota_and_costs_nothing(
    ready: House, send: Send
) -> None:
    # each way is one job more: the two that are there were made today
    just_enough = limited(ready, queued_jobs=1, jobs_per_day=3)
    first = send(just_enough)
    assert first.status_code == 202, first.json
    before = used(ready)
    assert before == Usage(queued_jobs=1, jobs_today=3, gpu_seconds_today=0.0)
    again = send(just_enough)
    assert (again.status_code, again.data) == (202, first.data)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert not any(field in again.headers for field in FIELDS)
    assert used(ready) == before
    assert send_job(just_enough.client).status_code == 429


@pytest.mark.parametrize("send", WAYS)
def test_without_quotas_nothing_is_counted_and_nothing_told(ready: House, send: Send) -> None:
    statements = traced(ready)
    answer = send(ready)
    assert answer.status_code == 202
    assert not any(field in answer.headers for field in FIELDS)
    assert not [said for said in statements if counts_use(said)]


@pytest.mark.parametrize(("send", "counted"), [(by_job, 1), (by_retry, 1), (by_batch, 2)])
def test_with_quotas_a_submission_is_counted_once_and_a_batch_beforehand_too(
    ready: House, send: Send, counted: int
) -> None:
    statements = traced(ready)
    assert send(limited(ready, queued_jobs=9)).status_code == 202
    assert len([said for said in statements if counts_use(said)]) == counted


def traced(house: House) -> list[str]:
    """The statements that this thread's connection runs from now on."""
    statements: list[str] = []
    database = cast(Database, cast(Any, house.backends.jobs)._database)
    with database.read() as connection:
        connection.set_trace_callback(statements.append)
    return statements


def counts_use(statement: str) -> bool:
    return statement.startswith(f"SELECT ({_QUEUED.partition(':')[0]}")


def test_the_trace_sees_what_counting_looks_like(house: House) -> None:
    statements = traced(house)
    used(house)
    assert [said for said in statements if counts_use(said)]


# --- what is told -------------------------------------------------------------------------------


def test_an_accepted_job_tells_what_is_left(house: House) -> None:
    client = limited(house, queued_jobs=3, jobs_per_day=1000, gpu_seconds_per_day=60).client
    for left in (2, 1, 0):
        answer = send_job(client)
        assert answer.status_code == 202
        assert answer.headers["RateLimit-Policy"] == (
            '"queued_jobs";q=3, "jobs_per_day";q=1000;w=86400, "gpu_seconds_per_day";q=60;w=86400'
        )
        assert answer.headers["RateLimit"] == (
            f'"queued_jobs";r={left}, "jobs_per_day";r={997 + left};t=43200, '
            '"gpu_seconds_per_day";r=60;t=43200'
        )
    refused = send_job(client)
    assert refused.status_code == 429
    assert refused.headers["RateLimit"].startswith('"queued_jobs";r=0, "jobs_per_day";r=997;')


@pytest.mark.parametrize("send", WAYS)
def test_every_way_to_submit_tells_what_is_left(ready: House, send: Send) -> None:
    ready.have()
    assert send(limited(ready, queued_jobs=9)).headers["RateLimit"] == '"queued_jobs";r=7'


def test_a_batch_tells_what_is_left_for_all_of_its_scenes(house: House) -> None:
    client = limited(house, queued_jobs=10).client
    assert submit(client, "p1", "p2", "p3").headers["RateLimit"] == '"queued_jobs";r=7'
    assert used(house).queued_jobs == 3


def test_reading_tells_nothing(house: House) -> None:
    client = limited(house, queued_jobs=10).client
    job = send_job(client).json["id"]
    assert not any(field in client.get(f"{JOBS}/{job}").headers for field in FIELDS)


@pytest.mark.parametrize(
    ("send", "where"),
    [
        (lambda client, batch: submit(client, "p1", "p2"), ["/scenes"]),
        (lambda client, batch: reprocess(client, batch), ["/select"]),
        (lambda client, batch: send_job(client), []),
    ],
)
def test_a_refusal_points_at_what_is_too_much(
    house: House, send: Callable[[FlaskClient, str], Any], where: list[str]
) -> None:
    batch = spoiled(house, 2)
    house.have()
    answer = send(limited(house, queued_jobs=1).client, batch)
    assert (answer.status_code, pointers(answer)) == (429, where)
    assert answer.json["error"]["param"] == (where[0].strip("/") if where else None)


def test_more_than_ever_fits_is_not_put_off(house: House) -> None:
    answer = submit(limited(house, queued_jobs=2).client, "p1", "p2", "p3")
    assert answer.status_code == 429
    assert "Retry-After" not in answer.headers
    assert "send fewer" in answer.json["detail"]


def test_a_full_queue_is_put_off_by_how_fast_it_is_drawn(house: House) -> None:
    client = limited(house, queued_jobs=4).client
    scene: dict[str, Any] = {"width": 1024, "height": 1024, "steps": 10}
    for _ in range(4):
        assert send_job(client, **scene).status_code == 202
    assert send_job(client, **scene).headers["Retry-After"] == "60"  # nobody draws, nobody knows
    house.backends.workers.save(
        a_worker(state=WorkerState.IDLE, seconds_per_megapixel_step=2.0, at=NOW)
    )
    # three go before the last: 3 x 10 steps x 1.048576 megapixels x 2 s, for four places
    assert send_job(client, **scene).headers["Retry-After"] == "16"
    assert submit(client, "p1", "p2").headers["Retry-After"] == "32"


# --- both sides of a limit ----------------------------------------------------------------------


def test_a_batch_takes_exactly_what_is_left_and_scenes_without_a_job_count(house: House) -> None:
    client = limited(house, queued_jobs=151).client
    send_job(client)
    keys = [f"p{n}" for n in range(151)]
    assert submit(client, *keys).status_code == 429
    batch = submitted(client, *keys[:150])
    assert read(client, batch)["status"] == "accepting"
    assert sum(read(client, batch)["counts"].values()) < 150
    assert send_job(client).status_code == 429
    expand_all(house)
    assert used(house).queued_jobs == 151
    assert send_job(client).status_code == 429
    client.post(f"{batch}/cancel", json={})
    assert send_job(client).status_code == 202


def test_a_canceled_job_and_one_that_is_drawn_free_their_places(house: House) -> None:
    client = limited(house, queued_jobs=1).client
    for leave in (
        lambda job: client.post(f"{JOBS}/{job}/cancel", json={}),
        lambda job: start(house, job),
    ):
        job = send_job(client).json["id"]
        assert send_job(client).status_code == 429
        leave(job)
    assert send_job(client).status_code == 202


def test_a_day_ends_at_midnight_and_deleting_does_not_end_it(house: House) -> None:
    client = limited(house, jobs_per_day=1).client
    job = send_job(client).json["id"]
    client.post(f"{JOBS}/{job}/cancel", json={})
    assert client.delete(f"{JOBS}/{job}").status_code == 204
    house.clock.advance(timedelta(hours=12) - timedelta(seconds=1))
    refused = send_job(client)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    house.clock.advance(1)
    assert send_job(client).status_code == 202
    assert send_job(client).status_code == 429


def test_seconds_are_those_that_were_drawn_today(house: House) -> None:
    client = limited(house, gpu_seconds_per_day=4).client
    spoiling = {"status": Status.FAILED, "metrics": Metrics(gpu_seconds=2.0)}
    house.have(**spoiling, updated_at=NOW - timedelta(days=1))
    house.have(**spoiling)
    assert send_job(client).status_code == 202
    house.have(**spoiling)
    assert send_job(client).status_code == 429


def test_another_tenants_jobs_take_no_place(house: House) -> None:
    house.have(tenant="eve")
    client = limited(house, queued_jobs=1, jobs_per_day=1).client
    assert send_job(client).status_code == 202


# --- assets and artifacts -----------------------------------------------------------------------


def test_a_refused_request_keeps_no_asset_longer(house: House) -> None:
    asset = an_upload(house.client, a_picture()).json
    client = limited(house, queued_jobs=1).client
    send_job(client)
    house.clock.advance(timedelta(days=1))
    assert send_job(client, references=[asset["id"]]).status_code == 429
    with_asset = SMALL | {"references": [asset["id"]]}
    assert submit(client, "p1", defaults=with_asset).status_code == 429
    kept = read(client, f"/v1/assets/{asset['id']}")["expires_at"]
    assert kept == asset["expires_at"]


class Beaten:
    """A store of which others use up some places just before the nth call of one of its methods."""

    def __init__(self, store: Any, house: House, *, at: str, nth: int = 1, places: int = 1) -> None:
        self._store, self._house, self._at, self._places = store, house, at, places
        self._left = nth

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._beaten, found) if name == self._at else found

    def _beaten(self, found: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            for _ in range(self._places):
                self._house.have()
        return found(*given, **named)


def test_a_batch_that_loses_the_race_leaves_no_artifact(house: House) -> None:
    full = limited(house, queued_jobs=1)
    batches = Beaten(house.backends.batches, house, at="create")
    files = artifacts(house)
    answer = submit(full.client_over(replace(house.backends, batches=batches)), "p1")
    assert (answer.status_code, pointers(answer)) == (429, ["/scenes"])
    assert artifacts(house) == files
    assert used(house).queued_jobs == 1


def test_a_job_that_loses_the_race_is_refused_by_the_store(house: House) -> None:
    full = limited(house, queued_jobs=1)
    jobs = Beaten(house.backends.jobs, house, at="create")
    client = full.client_over(replace(house.backends, jobs=jobs))
    asset = an_upload(house.client, a_picture()).json["id"]
    # what `have` stores goes through the real store, so it is not beaten itself
    assert send_job(client, references=[asset]).status_code == 429
    assert used(house).queued_jobs == 1


@pytest.mark.parametrize("way", ["job", "batch"])
def test_an_equal_request_that_was_faster_is_replayed_though_it_took_the_last_place(
    house: House, way: str
) -> None:
    full = limited(house, queued_jobs=1)
    asset = an_upload(house.client, a_picture()).json["id"]

    def send(client: FlaskClient) -> Any:
        if way == "job":
            return send_job(client, key="k", references=[asset])
        return submit(client, "p1", headers={"Idempotency-Key": "k"})

    class Slow:
        """Looks for an answer, then lets the other request be done first."""

        def __init__(self) -> None:
            self.first: Any = None

        def __getattr__(self, name: str) -> Any:
            return getattr(house.backends.jobs, name)

        def recall(self, *key: str) -> IdempotencyRecord | None:
            found = house.backends.jobs.recall(*key)
            if self.first is None:
                self.first = send(full.client)
            return found

    slow = Slow()
    answer = send(full.client_over(replace(house.backends, jobs=slow)))
    assert (answer.status_code, answer.data) == (202, slow.first.data)
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert used(house).queued_jobs == 1


def test_of_ten_requests_at_once_one_gets_the_last_place(house: House) -> None:
    house.have()
    racers, app = 10, limited(house, queued_jobs=2).client.application
    barrier, answers = threading.Barrier(racers), list[Any]()

    def run(racer: int) -> None:
        client = app.test_client()
        barrier.wait(timeout=60)
        answers.append(submit(client, "p1") if racer % 2 else send_job(client))

    threads = [threading.Thread(target=run, args=(racer,)) for racer in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [202] + [429] * (racers - 1)
    assert used(house).queued_jobs == 2
    taken = [answer.json["id"] for answer in answers if answer.status_code == 202]
    batches = {
        file.parent.name for file in artifacts(house) if file.parent.parent.name == "batches"
    }
    assert batches == {each for each in taken if each.startswith("bat_")}


# --- reprocessing -------------------------------------------------------------------------------


def newest_takes(house: House, batch: str) -> list[int]:
    scenes = read(house.client, f"{batch}/scenes?limit=200")["data"]
    return [scene["newest"]["take"] for scene in scenes]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_reprocess_of_more_than_fits_is_refused_as_a_whole(house: House, dry_run: bool) -> None:
    batch = spoiled(house, 3)
    house.have()
    rows = everything(house)
    fewer, enough = limited(house, queued_jobs=3).client, limited(house, queued_jobs=4).client
    answer = reprocess(fewer, batch, dry_run=dry_run)
    assert (answer.status_code, answer.json["code"]) == (429, "quota_exceeded")
    assert reprocess(enough, batch, dry_run=True).json["selected"] == 3
    assert everything(house) == rows
    assert reprocess(enough, batch).json["selected"] == 3
    assert newest_takes(house, batch) == [2, 2, 2]


def test_scenes_that_need_no_take_take_no_place(house: House) -> None:
    batch = spoiled(house, 3)
    select = {"scenes": ["p000", "p001"]}
    assert reprocess(house.client, batch, select=select).json["selected"] == 2
    answer = reprocess(limited(house, queued_jobs=3).client, batch)
    assert answer.json["selected"] == 1
    assert {each["reason"] for each in answer.json["skipped"]} == {"in_progress"}


def test_scenes_for_which_a_race_left_no_room_are_skipped_and_told(house: House) -> None:
    count = 2 * CHUNK + 10
    batch, last = spoiled(house, count), f"p{count - 1:03}"
    assert reprocess(house.client, batch, select={"scenes": [last]}).json["selected"] == 1
    # all fit, until others take 20 places before the second of three transactions
    batches = Beaten(house.backends.batches, house, at="update_scenes", nth=2, places=20)
    client = limited(house, queued_jobs=count).client_over(replace(house.backends, batches=batches))
    answer = reprocess(client, batch, key="k")
    assert answer.status_code == 202
    skipped = {each["key"]: each["reason"] for each in answer.json["skipped"]}
    assert (answer.json["selected"], len(answer.json["jobs"])) == (CHUNK, CHUNK)
    assert skipped.pop(last) == "in_progress"
    assert skipped == dict.fromkeys([f"p{n:03}" for n in range(CHUNK, count - 1)], "quota")
    assert newest_takes(house, batch) == [2] * CHUNK + [1] * (CHUNK + 9) + [2]
    assert used(house).queued_jobs == CHUNK + 20 + 1
    assert reprocess(client, batch, key="k").data == answer.data


def test_a_retake_that_loses_the_race_is_refused(house: House) -> None:
    batch = spoiled(house, 1)
    job = newest_job(house.client, batch, "p000")
    batches = Beaten(house.backends.batches, house, at="update_scenes")
    full = limited(house, queued_jobs=1)
    client = full.client_over(replace(house.backends, batches=batches))
    assert client.post(f"{JOBS}/{job}/retry", json={}).status_code == 429
    assert newest_takes(house, batch) == [1]


def test_a_refused_retake_leaves_a_canceled_batch_as_it_is(house: House) -> None:
    client = limited(house, queued_jobs=1).client
    asset = an_upload(client, a_picture()).json["id"]
    batch = submitted(client, "p1")
    client.post(f"{batch}/cancel", json={})
    client.put(f"{batch}/scenes/p1", json={"prompt": "Mia", "references": [asset]})
    house.have()
    rows = everything(house)
    job = newest_job(client, batch, "p1")
    assert client.post(f"{JOBS}/{job}/retry", json={}).status_code == 429
    assert everything(house) == rows
    assert read(client, batch)["status"] == "canceled"


@pytest.mark.parametrize("left", [CHUNK + 10, CHUNK + 9])
def test_a_reprocess_that_was_cut_off_is_charged_only_for_what_is_left(
    house: House, left: int
) -> None:
    count = 2 * CHUNK + 10
    batch = spoiled(house, count)
    wish: dict[str, Any] = {"select": {"status": ["failed"]}, "force": True, "key": "k"}
    cut_off = limited(house, queued_jobs=count).client_over(
        replace(house.backends, batches=CutOff(house.backends.batches))
    )
    assert reprocess(cut_off, batch, **wish).status_code == 503
    assert used(house).queued_jobs == CHUNK
    # what was made has failed again: without its key it would look as if it were to be made anew
    for scene in read(house.client, f"{batch}/scenes?limit={CHUNK}")["data"]:
        spoil(house, scene["newest"]["job"])
    answer = reprocess(limited(house, queued_jobs=left).client, batch, **wish)
    assert answer.status_code == (202 if left == CHUNK + 10 else 429)
    assert used(house).queued_jobs == (left if left == CHUNK + 10 else 0)


class CutOff:
    """Batches of which the second transaction on scenes never comes through."""

    def __init__(self, batches: Any) -> None:
        self._batches, self._calls = batches, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def update_scenes(self, *given: Any, **named: Any) -> Any:
        self._calls += 1
        if self._calls == 2:
            raise StoreUnavailable("cut off here")
        return self._batches.update_scenes(*given, **named)


def test_retrying_a_job_of_a_canceled_batch_brings_none_of_its_other_scenes_back(
    house: House,
) -> None:
    client = limited(house, queued_jobs=250).client
    batch = submitted(client, *(f"p{n}" for n in range(250)))
    client.post(f"{batch}/cancel", json={})
    job = newest_job(client, batch, "p0")
    assert client.post(f"{JOBS}/{job}/retry", json={}).status_code == 202
    expand_all(house)
    assert read(client, batch)["counts"]["canceled"] == 249
    assert used(house).queued_jobs == 1


def test_a_cancel_during_a_retry_holds_for_the_scenes_that_have_no_job_yet(house: House) -> None:
    batch = submitted(house.client, *(f"p{n}" for n in range(250)))
    job = newest_job(house.client, batch, "p0")
    spoil(house, job)

    class CanceledMeanwhile:
        """Batches of which this one is canceled just before the retry revives it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(house.backends.batches, name)

        def update(self, *given: Any) -> Any:
            house.client.post(f"{batch}/cancel", json={})
            return house.backends.batches.update(*given)

    client = house.client_over(replace(house.backends, batches=CanceledMeanwhile()))
    assert client.post(f"{JOBS}/{job}/retry", json={}).status_code == 202
    expand_all(house)
    assert read(house.client, batch)["counts"]["canceled"] == 250
    assert used(house).queued_jobs == 0
