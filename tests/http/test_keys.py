"""A service with keys: who is let in, until when, and what one tenant learns of another."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from shared import keys as rules
from shared.errors import BadSettings
from shared.keys import write_keys
from shared.logs import JsonLines
from shared.workers import WorkerState
from tests.builders import NOW, job_id, seconds
from tests.http.conftest import (
    House,
    KeyedHouse,
    a_key,
    a_keyed_house,
    a_picture,
    an_upload,
    claimed,
    pointers,
    with_key,
)
from tests.http.stories import submit
from tests.http.test_queue import a_worker

JOBS = "/v1/jobs"
REMOTE = {"REMOTE_ADDR": "192.0.2.7"}
FOREIGN = {"Host": "illo.example", "Origin": "https://pages.example"}


@pytest.fixture
def ada(keyed: KeyedHouse) -> FlaskClient:
    return keyed.caller("ada")


@pytest.fixture
def bob(keyed: KeyedHouse) -> FlaskClient:
    return keyed.caller("bob")


def in_file(keyed: KeyedHouse, file: Path, text: str) -> House:
    """The house with its keys in a file."""
    file.write_text(text)
    return keyed.with_settings(keys=str(file))


# --- who is let in ----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_opens_whatever_the_case_of_its_scheme(keyed: KeyedHouse, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {keyed.keys['ada']}"}
    assert keyed.client.get(JOBS, headers=headers).status_code == 200


def test_with_keys_the_key_decides_and_not_where_the_caller_is(ada: FlaskClient) -> None:
    posted = ada.post(JOBS, json={"prompt": "a"}, headers=FOREIGN, environ_overrides=REMOTE)
    assert posted.status_code == 202
    for path in ("/v1/queue/pause", "/v1/queue/resume"):
        assert ada.post(path, environ_overrides=REMOTE).status_code == 200


def test_without_keys_a_key_opens_nothing_more(house: House) -> None:
    client = with_key(house.client, a_key()[0])
    assert client.get(JOBS, headers=FOREIGN).status_code == 403
    assert client.post("/v1/queue/pause", environ_overrides=REMOTE).status_code == 403
    assert client.get(JOBS).status_code == 200


def test_a_key_ends_at_its_instant(keyed: KeyedHouse) -> None:
    key, stored = a_key(expires_at=NOW + seconds(60))
    client = with_key(keyed.with_settings(keys=write_keys([stored])).client, key)
    keyed.clock.advance(59)
    assert client.get(JOBS).status_code == 200
    keyed.clock.advance(1)
    assert client.get(JOBS).status_code == 401


def test_a_refusal_for_its_key_serves_the_openai_sdk_too(keyed: KeyedHouse) -> None:
    error = keyed.client.get(JOBS).json["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "unauthenticated")
    error = keyed.caller("ada's reader").post(JOBS, json={"prompt": "a"}).json["error"]
    assert (error["type"], error["code"]) == ("permission_error", "insufficient_scope")


@pytest.mark.parametrize("name", ["ada", "unknown", "wrong", "revoked", "expired", None])
def test_every_key_costs_the_same_work(
    name: str | None, keyed: KeyedHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted at the two places where work is done on what the caller sent."""
    done: list[tuple[str, int]] = []

    def counting(what: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            done.append((what, *map(len, given[-1:])))
            return act(*given)

        return counted

    client = with_key(keyed.client, keyed.keys[name] if name else "nonsense")
    monkeypatch.setattr(rules.hashlib, "sha256", counting("digest", rules.hashlib.sha256))
    monkeypatch.setattr(rules, "compare_digest", counting("compare", rules.compare_digest))
    client.delete(f"{JOBS}/no-such-job")
    assert done == [("digest", 46), ("compare", 64)]


def test_the_description_tells_the_scope_of_every_operation(keyed: KeyedHouse) -> None:
    description = keyed.client.get("/openapi.json").json
    assert description["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    said = {
        path: methods[method]["security"]
        for path, methods in description["paths"].items()
        for method in methods
        if path in ("/healthz", "/metrics", "/v1/queue", "/v1/queue/pause")
    }
    assert said == {
        "/healthz": [],
        "/metrics": [{"key": ["admin"]}],
        "/v1/queue": [{"key": ["read"]}],
        "/v1/queue/pause": [{"key": ["admin"]}],
    }


# --- the file while the service runs ----------------------------------------------------------


@pytest.fixture
def _looking_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.key_file.LOOK_EVERY", 0.0)


@pytest.mark.usefixtures("_looking_always")
def test_a_revocation_takes_effect_without_a_restart(keyed: KeyedHouse, tmp_path: Path) -> None:
    key, stored = a_key()
    file = tmp_path / "keys.json"
    client = with_key(in_file(keyed, file, write_keys([stored])).client, key)
    assert client.get(JOBS).status_code == 200
    file.write_text(write_keys([a_key(id=stored.id, revoked_at=NOW)[1]]))
    assert client.get(JOBS).status_code == 401


@pytest.mark.usefixtures("_looking_always")
def test_a_key_that_is_added_opens_without_a_restart(keyed: KeyedHouse, tmp_path: Path) -> None:
    (old, first), (new, second) = a_key(), a_key()
    file = tmp_path / "keys.json"
    served = in_file(keyed, file, write_keys([first])).client
    assert with_key(served, new).get(JOBS).status_code == 401
    file.write_text(write_keys([first, second]))
    assert with_key(served, new).get(JOBS).status_code == 200
    assert with_key(served, old).get(JOBS).status_code == 200


# --- what reaches a log -----------------------------------------------------------------------


def test_ids_of_keys_reach_the_log_and_nothing_else_of_them(
    keyed: KeyedHouse, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in keyed.keys:
        client = keyed.caller(name)
        client.get(JOBS)
        client.post(JOBS, data=b"{", headers={"Content-Type": "application/json"})
        client.get(f"{JOBS}/{job_id('none')}")
        client.post("/v1/queue/pause", headers={"Authorization": keyed.keys[name]})  # no scheme
    written = [JsonLines().format(record) for record in caplog.records]
    secrets = {key.rpartition("_")[2] for key in keyed.keys.values()}
    assert not [line for line in written for secret in secrets if secret in line]
    events = [json.loads(line) for line in written]
    answered = {e["key_id"] for e in events if e["message"] == "answered" and e["status"] == 200}
    good = ("ada", "ada's reader", "bob", "bob's writer")
    assert answered == {keyed.keys[name].split("_")[1] for name in good}
    reasons = {e["reason"].rpartition(" ")[2] for e in events if e["message"] == "key refused"}
    assert reasons >= {"revoked", "expired", "secret"}


# --- one tenant and another -------------------------------------------------------------------


def test_what_a_tenant_makes_is_listed_for_that_tenant_alone(
    ada: FlaskClient, bob: FlaskClient
) -> None:
    job = ada.post(JOBS, json={"prompt": "a", "metadata": {"book": "1"}}).json["id"]
    for query in ("", "?metadata[book]=1", "?status=queued"):
        assert [one["id"] for one in ada.get(JOBS + query).json["data"]] == [job]
        assert bob.get(JOBS + query).json["data"] == []


def test_another_tenants_batch_filters_like_one_that_there_is_not(
    ada: FlaskClient, bob: FlaskClient
) -> None:
    batch = submit(ada, "p1").json["id"]
    assert len(ada.get(f"{JOBS}?batch={batch}").json["data"]) == 1
    assert bob.get(f"{JOBS}?batch={batch}").json == bob.get(f"{JOBS}?batch=bat_none").json


@pytest.mark.parametrize(
    ("method", "path", "body", "pointer"),
    [
        ("POST", JOBS, {"prompt": "a", "references": ["REF"]}, "/references/0"),
        (
            "POST",
            "/v1/batches",
            {"scenes": [{"key": "p1", "prompt": "a", "references": ["REF"]}]},
            "/scenes/0/references/0",
        ),
        (
            "POST",
            "/v1/batches",
            {"defaults": {"references": ["REF"]}, "scenes": [{"key": "p1", "prompt": "a"}]},
            "/defaults/references/0",
        ),
        ("PUT", "BATCH/scenes/p1", {"prompt": "b", "references": ["REF"]}, "/references/0"),
        (
            "POST",
            "BATCH/reprocess",
            {"select": {"all": True}, "overrides": {"references": ["REF"]}},
            "/overrides/references/0",
        ),
    ],
)
def test_another_tenants_asset_is_no_reference(
    keyed: KeyedHouse, method: str, path: str, body: Any, pointer: str
) -> None:
    asset = an_upload(keyed.caller("ada"), a_picture()).json["id"]
    bob = keyed.caller("bob")
    batch = submit(bob, "p1").headers["Location"]
    before = keyed.backends.assets.get("ada", asset)

    def told(reference: str) -> Any:
        written = json.loads(json.dumps(body).replace("REF", reference))
        answer = bob.open(path.replace("BATCH", batch), method=method, json=written)
        assert answer.status_code == 422
        assert pointer in pointers(answer)
        return {name: said for name, said in answer.json.items() if name != "request_id"}

    assert told(asset) == told("ast_" + "0" * 64)
    assert keyed.backends.assets.get("ada", asset) == before


@pytest.mark.parametrize("path", [JOBS, "/v1/assets"])
def test_another_tenants_cursor_is_none(keyed: KeyedHouse, path: str) -> None:
    ada, bob = keyed.caller("ada"), keyed.caller("bob")
    for client in (ada, bob):
        for colour in ("tomato", "gold"):
            client.post(JOBS, json={"prompt": "a"})
            an_upload(client, a_picture(colour=colour))
    cursor = ada.get(f"{path}?limit=1").json["next_cursor"]
    assert cursor
    theirs, nonsense = (bob.get(f"{path}?limit=1&cursor={c}") for c in (cursor, "nonsense"))
    assert theirs.status_code == 422
    assert theirs.json["errors"] == nonsense.json["errors"]


def test_an_idempotency_key_means_something_to_its_tenant_only(
    ada: FlaskClient, bob: FlaskClient
) -> None:
    headers = {"Idempotency-Key": "page-1"}
    first = ada.post(JOBS, json={"prompt": "a"}, headers=headers)
    other = bob.post(JOBS, json={"prompt": "another"}, headers=headers)
    assert (first.status_code, other.status_code) == (202, 202)
    assert first.json["id"] != other.json["id"]
    assert "Idempotency-Replayed" not in other.headers
    again = ada.post(JOBS, json={"prompt": "a"}, headers=headers)
    assert again.data == first.data


def test_two_keys_of_a_tenant_are_one_caller(keyed: KeyedHouse) -> None:
    headers = {"Idempotency-Key": "page-1"}
    first = keyed.caller("bob").post(JOBS, json={"prompt": "a"}, headers=headers)
    rotated = keyed.caller("bob's writer").post(JOBS, json={"prompt": "a"}, headers=headers)
    assert rotated.data == first.data
    assert keyed.caller("bob's writer").get(f"{JOBS}/{first.json['id']}").status_code == 200


def test_the_same_picture_of_two_tenants_is_two_assets(ada: FlaskClient, bob: FlaskClient) -> None:
    first, other = (an_upload(client, a_picture()) for client in (ada, bob))
    assert (first.status_code, other.status_code) == (201, 201)
    assert first.json["id"] != other.json["id"]


# --- the queue and the workers ----------------------------------------------------------------


def test_a_tenant_sees_its_own_jobs_counted_and_an_operator_all(keyed: KeyedHouse) -> None:
    keyed.have(tenant="ada", created_at=NOW - seconds(90))
    keyed.have(tenant="ada")
    claimed(keyed, keyed.have(tenant="ada").id)
    keyed.have(tenant="bob", created_at=NOW - seconds(5))

    def seen(name: str) -> tuple[int, int, float]:
        queue = keyed.caller(name).get("/v1/queue").json
        counts = queue["counts"]
        waiting, drawn = (sum(counts[status].values()) for status in ("queued", "running"))
        return waiting, drawn, queue["oldest_queued_seconds"]

    assert seen("ada's reader") == (2, 1, 90)
    assert seen("bob's writer") == (1, 0, 5)
    assert seen("bob") == (3, 1, 90)


def test_a_worker_tells_nobody_of_another_tenants_job(keyed: KeyedHouse) -> None:
    job = claimed(keyed, keyed.have(tenant="ada").id).id
    workers = keyed.backends.workers
    workers.save(a_worker(WorkerState.DRAWING, id="wrk_1", job=job))
    workers.save(a_worker(WorkerState.DRAWING, id="wrk_2", job=job_id("removed")))

    def seen(name: str) -> dict[str, Any]:
        listed = keyed.caller(name).get("/v1/workers").json["data"]
        assert {worker["state"] for worker in listed} == {"drawing"}
        return {worker["id"]: worker["job"] for worker in listed}

    assert seen("ada") == seen("ada's reader") == {"wrk_1": job, "wrk_2": None}
    assert seen("bob") == seen("bob's writer") == {"wrk_1": None, "wrk_2": None}


def test_the_figures_of_all_are_for_an_operator(keyed: KeyedHouse) -> None:
    assert keyed.caller("bob's writer").get("/metrics").status_code == 403
    assert b"illo_jobs_unfinished" in keyed.caller("bob").get("/metrics").data


# --- the start --------------------------------------------------------------------------------


def start(folder: Path, keys: str) -> "subprocess.CompletedProcess[str]":
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ILLO_")}
    root = str(Path(__file__).parents[2])
    own = {"ILLO_DATA": str(folder), "PORT": "0", "PYTHONPATH": root, "ILLO_KEYS": keys}
    return subprocess.run(
        [sys.executable, "-c", "from api.main import main; main()"],
        env=inherited | own,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_with_bad_keys_it_does_not_start_and_tells_every_fault(tmp_path: Path) -> None:
    secret, stored = a_key()
    entry = json.loads(write_keys([stored]))["keys"][0]
    bad = {"keys": [{**entry, "tenant": "Ada"}, {**entry, "sha256": secret, "scopes": ["all"]}]}
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(bad))
    ended = start(tmp_path, str(file))
    assert ended.returncode == 2
    for fault in ("/keys/0/tenant: ", "/keys/1/sha256: ", "/keys/1/scopes/0: "):
        assert f"ILLO_KEYS: {file}: {fault}" in ended.stderr
    assert secret not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


def test_a_key_in_the_place_of_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    key, _ = a_key()
    ended = start(tmp_path, key)
    assert ended.returncode == 2
    assert "ILLO_KEYS: this is a key" in ended.stderr
    assert key.rpartition("_")[2] not in ended.stderr


def test_an_app_is_not_made_with_keys_that_cannot_be_read(tmp_path: Path) -> None:
    house = a_keyed_house(tmp_path).with_settings(keys='{"keys": 1}')
    with pytest.raises(BadSettings, match="ILLO_KEYS: /keys: "):
        _ = house.client
