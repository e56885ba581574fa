"""Submitting jobs: defaults, limits, references, and what happens when a backend fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.sweep import sweep_once
from shared.errors import StoreFull, StoreUnavailable
from shared.jobs import FIRST_WAKE
from shared.scenes import recipe_of
from shared.vocabulary import Status
from shared.workers import FAILED_STARTS, WorkerState, pause, resume
from tests.builders import NOW, WEIGHTS, a_worker
from tests.http.conftest import Away, House, a_picture, an_upload, pointers


def test_a_prompt_is_enough_and_every_default_is_told(house: House) -> None:
    answer = house.client.post("/v1/jobs", json={"prompt": "Mia hides under the bed"})
    job = answer.json
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["Retry-After"] == "1"
    seed = job["input"].pop("seed")
    assert 0 <= seed < 2**32
    assert job["input"] == {
        "prompt": "Mia hides under the bed",
        "references": [],
        "width": 1024,
        "height": 1024,
        "steps": 28,
        "guidance": 2.5,
        "count": 1,
        "format": "png",
    }
    assert (job["status"], job["version"], job["attempt"]) == ("queued", 1, 0)
    assert job["weights"] == {"label": WEIGHTS.label, "sha256": WEIGHTS.sha256}
    assert job["priority"] == "normal"
    assert job["timeline"] == [{"at": "2026-03-01T12:00:00Z", "event": "queued", "attempt": 0}]
    assert job["expires_at"] == "2026-03-31T12:00:00Z"


def test_weights_that_draw_small_pictures_draw_small_ones_where_nobody_chose(house: House) -> None:
    app = create_app(house.backends, house.settings, WEIGHTS, usual_pixels=128 * 128)
    chosen = {"key": "b", "prompt": "Mia", "width": 64, "height": 96}
    scenes = [{"key": "a", "prompt": "Mia"}, chosen]
    with app.test_client() as client:
        job = client.post("/v1/jobs", json={"prompt": "Mia"}).json
        client.post("/v1/batches", json={"scenes": scenes})
        listed = client.get("/v1/jobs").json["data"]
    assert (job["input"]["width"], job["input"]["height"]) == (128, 128)
    sides = [(each["input"]["width"], each["input"]["height"]) for each in listed]
    assert sorted(sides) == [(64, 96), (128, 128), (128, 128)]


def test_the_stored_job_has_nothing_left_to_choose(house: House) -> None:
    id = house.client.post("/v1/jobs", json={"prompt": "Mia"}).json["id"]
    stored = house.backends.jobs.get(id)
    assert stored.recipe == recipe_of(stored.scene)
    assert stored.tenant == "local"


def test_two_jobs_without_a_seed_get_seeds_of_their_own(client: FlaskClient) -> None:
    seeds = {client.post("/v1/jobs", json={"prompt": "a"}).json["input"]["seed"] for _ in range(4)}
    assert len(seeds) > 1


def test_a_worker_is_woken_once_and_the_sweep_made_patient(house: House) -> None:
    id = house.client.post("/v1/jobs", json={"prompt": "Mia"}).json["id"]
    assert [wake.job for wake in house.publisher.wakes] == [id]
    assert house.backends.jobs.get(id).wake_at == NOW + timedelta(seconds=300)


def test_a_job_whose_wake_fails_is_accepted_and_left_to_the_sweep(house: House) -> None:
    house.publisher.down = True
    answer = house.client.post("/v1/jobs", json={"prompt": "Mia"})
    assert answer.status_code == 202
    assert house.backends.jobs.get(answer.json["id"]).wake_at == NOW + timedelta(seconds=30)


def failed_starts(house: House) -> None:
    for number in range(FAILED_STARTS):
        broken = a_worker(state=WorkerState.BROKEN, id=f"wrk_{number}", error="no model.gguf")
        house.backends.workers.save(broken)


def a_paused_queue(house: House) -> None:
    house.backends.workers.update_control(lambda control, now: pause(control, now, reason=""))


@pytest.mark.parametrize("hold", [failed_starts, a_paused_queue])
def test_while_waking_is_held_a_job_is_stored_and_the_sweep_wakes_it_later(
    house: House, hold: Callable[[House], None]
) -> None:
    hold(house)
    answer = house.client.post("/v1/jobs", json={"prompt": "Mia"})
    assert answer.status_code == 202
    assert answer.json["queue"]["reason"]
    assert house.publisher.wakes == []
    house.clock.advance(FIRST_WAKE)
    assert sweep_once(house.backends, house.settings).held
    assert house.publisher.wakes == []
    house.backends.workers.update_control(resume)
    sweep_once(house.backends, house.settings)
    assert [wake.job for wake in house.publisher.wakes] == [answer.json["id"]]


def test_a_retry_wakes_nobody_either_while_starts_fail(house: House) -> None:
    failed_starts(house)
    job = house.have(status=Status.FAILED)
    assert house.client.post(f"/v1/jobs/{job.id}/retry").status_code == 202
    assert house.publisher.wakes == []


def test_a_worker_that_is_idle_is_woken_whatever_starts_fail_beside_it(house: House) -> None:
    failed_starts(house)
    early = NOW - timedelta(hours=1)
    house.backends.workers.save(a_worker(id="wrk_idle", started_at=early, at=NOW, weights=WEIGHTS))
    id = house.client.post("/v1/jobs", json={"prompt": "Mia"}).json["id"]
    assert [wake.job for wake in house.publisher.wakes] == [id]


def test_nothing_is_written_or_sent_while_the_store_is_away(house: House) -> None:
    away = replace(house.backends, jobs=Away(), workers=Away())  # type: ignore[arg-type]
    answer = house.client_over(away).post("/v1/jobs", json={"prompt": "Mia"})
    assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert house.publisher.wakes == []
    assert house.client.get("/v1/jobs").json["data"] == []


def test_a_full_disk_is_told_as_that(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreFull("the disk of /data is full; make room on it")

    monkeypatch.setattr(type(house.backends.jobs), "create", fail)
    answer = house.client.post("/v1/jobs", json={"prompt": "Mia"})
    assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
    assert "the disk of /data is full" in answer.json["detail"]
    assert house.publisher.wakes == []


def test_a_store_that_goes_away_at_the_commit_leaves_no_message(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone")

    client = house.client
    monkeypatch.setattr(type(house.backends.jobs), "create", fail)
    key = {"Idempotency-Key": "k"}
    assert client.post("/v1/jobs", json={"prompt": "a"}, headers=key).status_code == 503
    monkeypatch.undo()
    assert house.publisher.wakes == []
    answer = client.post("/v1/jobs", json={"prompt": "a"}, headers=key)
    assert answer.status_code == 202
    assert "Idempotency-Replayed" not in answer.headers


def test_a_store_that_goes_away_after_the_publish_changes_no_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(type(house.backends.jobs), "update", fail)
    assert house.client.post("/v1/jobs", json={"prompt": "a"}).status_code == 202
    assert len(house.publisher.wakes) == 1


GOOD = {
    "prompt": ["x", "x" * 4000, "é" * 4000, "two\nlines\tand a tab", "日本語 🎨", "\n."],
    "steps": [1, 100],
    "guidance": [0, 0.0, 20, 3.5],
    "seed": [0, 2**32 - 1],
    "count": [1, 4],
    "format": ["png", "jpeg", "webp"],
    "priority": ["high", "normal", "low"],
    "references": [[]],
    "metadata": [
        {},
        {"k" * 64: "v" * 512},
        {str(n): "" for n in range(16)},
        {chr(97 + n): "\U0001f431" * 255 for n in range(16)} | {"a": "\U0001f431" * 255 + "xxx"},
    ],
}
BAD = {
    "prompt": [
        "",
        " ",
        "\n\t\u3000",
        "x" * 4001,
        "\x00",
        "a\rb",
        "\x7f",
        "\x85",
        "\ud800",
        None,
        1,
        ["a"],
    ],
    "steps": [0, 101, "28", 28.0, True, 10**30, [28]],
    "guidance": [-0.1, 20.1, "2.5", True, 10**30],
    "seed": [-1, 2**32, "1", 1.0, False],
    "count": [0, 5, "1", True],
    "format": ["gif", "PNG", 1, None, True],
    "priority": ["urgent", "HIGH", 0, None],
    "references": ["ast_1", {}, [1], [None], ["ast_1\x00"], ["a"] * 5],
    "metadata": [
        {"k" * 65: "v"},
        {"k": "v" * 513},
        {"": "v"},
        {"k": 1},
        {"k": None},
        {"k": "\x00"},
        {"k\x00": "v"},
        {str(n): "" for n in range(17)},
        {chr(97 + n): "\U0001f431" * 256 for n in range(16)},
        [],
    ],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in GOOD.items() for value in values]
)
def test_values_up_to_the_limit_are_accepted(
    client: FlaskClient, field: str, value: object
) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "Mia", field: value})
    assert answer.status_code == 202
    assert (answer.json["input"] | answer.json)[field] == value


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD.items() for value in values]
)
def test_values_beyond_the_limit_are_refused_where_they_stand(
    client: FlaskClient, field: str, value: object
) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "Mia", field: value})
    assert answer.status_code == 422
    assert {pointer.split("/")[1] for pointer in pointers(answer)} == {field}
    assert client.get("/v1/jobs").json["data"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [(None, ""), (["Mia"], ""), ("Mia", ""), ({"prompt": "Mia", "metadata": []}, "/metadata")],
)
def test_what_should_be_an_object_and_is_none_is_told_so(
    client: FlaskClient, body: object, pointer: str
) -> None:
    answer = client.post("/v1/jobs", data=json.dumps(body), content_type="application/json")
    assert answer.json["errors"] == [{"pointer": pointer, "detail": "should be an object"}]
    told = f"{pointer}: should be an object" if pointer else "should be an object"
    assert answer.json["error"]["message"] == told


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (2048, 64), (64, 2048), (2048, 768), (1600, 992), (800, 2000)]
)
def test_sides_within_the_limits_are_accepted(client: FlaskClient, width: int, height: int) -> None:
    sides = {"width": width, "height": height}
    answer = client.post("/v1/jobs", json={"prompt": "Mia", **sides})
    assert answer.status_code == 202
    assert answer.json["input"] | sides == answer.json["input"]


@pytest.mark.parametrize(("max_pixels", "status"), [(256 * 256, 202), (256 * 256 - 1, 422)])
def test_an_area_may_be_as_large_as_is_set_and_no_larger(
    house: House, max_pixels: int, status: int
) -> None:
    client = house.with_settings(max_pixels=max_pixels).client
    answer = client.post("/v1/jobs", json={"prompt": "Mia", "width": 256, "height": 256})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("sides", "wrong"),
    [
        ({"width": 48, "height": 64}, "/width"),
        ({"width": 64, "height": 2064}, "/height"),
        ({"width": 65, "height": 64}, "/width"),
        ({"width": 72, "height": 64}, "/width"),
        ({"width": 0, "height": 64}, "/width"),
        ({"width": -64, "height": 64}, "/width"),
        ({"width": 64.0, "height": 64}, "/width"),
        ({"width": "64", "height": 64}, "/width"),
        ({"width": 1024}, "/height"),
        ({"height": 1024}, "/width"),
        ({"width": 848, "height": 1888}, "/width"),  # the least area beyond the limit
        ({"width": 2048, "height": 2048}, "/width"),
    ],
)
def test_sides_beyond_the_limits_are_refused(
    client: FlaskClient, sides: dict[str, object], wrong: str
) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "Mia", **sides})
    assert (answer.status_code, pointers(answer)) == (422, [wrong])


def test_the_area_is_a_setting(house: House) -> None:
    client = house.with_settings(max_pixels=512 * 512).client
    assert client.post("/v1/jobs", json={"prompt": "a"}).json["input"]["width"] == 512
    for height, status in ((512, 202), (528, 422)):
        scene = {"prompt": "a", "width": 512, "height": height}
        assert client.post("/v1/jobs", json=scene).status_code == status


def test_a_reference_gives_its_shape_and_is_pinned(house: House) -> None:
    client = house.client
    asset = an_upload(client, a_picture((96, 64))).json
    job = client.post("/v1/jobs", json={"prompt": "Mia", "references": [asset["id"]]}).json
    assert (job["input"]["width"], job["input"]["height"]) == (1248, 832)
    assert job["input"]["references"] == [asset["id"]]
    [pinned] = house.backends.jobs.get(job["id"]).scene.references
    assert (pinned.sha256, pinned.width, pinned.height) == (asset["sha256"], 96, 64)
    assert house.backends.artifacts.get(pinned.artifact, pinned.generation)


def test_a_reference_that_nobody_uploaded_is_refused(house: House) -> None:
    unknown = "ast_" + "0" * 64
    answer = house.client.post("/v1/jobs", json={"prompt": "Mia", "references": [unknown]})
    assert (answer.status_code, pointers(answer)) == (422, ["/references/0"])


def test_up_to_four_references_are_pinned_in_their_order(house: House) -> None:
    client = house.client
    colours = ("red", "blue", "green", "black")
    assets = [an_upload(client, a_picture(colour=colour)).json["id"] for colour in colours]
    for wanted in (assets, assets[::-1], assets[:2]):
        answer = client.post("/v1/jobs", json={"prompt": "Mia", "references": wanted})
        assert (answer.status_code, answer.json["input"]["references"]) == (202, wanted)
        pinned = house.backends.jobs.get(answer.json["id"]).scene.references
        assert [reference.asset for reference in pinned] == wanted


def test_a_fifth_reference_is_refused(house: House) -> None:
    asset = an_upload(house.client, a_picture()).json["id"]
    answer = house.client.post("/v1/jobs", json={"prompt": "Mia", "references": [asset] * 5})
    assert (answer.status_code, pointers(answer)) == (422, ["/references"])
    assert house.client.get("/v1/jobs").json["data"] == []


def test_a_job_prolongs_the_life_of_its_reference(house: House) -> None:
    client = house.client
    asset = an_upload(client, a_picture()).json
    house.clock.advance(timedelta(days=10))
    client.post("/v1/jobs", json={"prompt": "Mia", "references": [asset["id"]]})
    kept = client.get(f"/v1/assets/{asset['id']}").json
    assert kept["expires_at"] == "2026-04-10T12:00:00Z"


def test_a_popular_reference_is_not_written_with_every_job(house: House) -> None:
    client = house.client
    asset = an_upload(client, a_picture()).json["id"]
    ends = []
    for minutes in (1, 30, 29, 1):  # the clock shows 12:01, 12:31, 13:00, 13:01
        house.clock.advance(timedelta(minutes=minutes))
        client.post("/v1/jobs", json={"prompt": "Mia", "references": [asset]})
        ends.append(client.get(f"/v1/assets/{asset}").json["expires_at"][11:])
    assert ends == ["13:00:00Z", "13:00:00Z", "13:00:00Z", "14:00:00Z"]


def test_a_job_does_not_shorten_the_life_of_a_batchs_reference(house: House) -> None:
    client = house.client
    asset = an_upload(client, a_picture()).json["id"]
    house.backends.assets.keep("local", asset, until=None)
    client.post("/v1/jobs", json={"prompt": "Mia", "references": [asset]})
    assert client.get(f"/v1/assets/{asset}").json["expires_at"] is None


def test_a_retry_draws_from_the_bytes_that_its_reference_has_now(house: House) -> None:
    client = house.client
    asset = an_upload(client, a_picture()).json["id"]
    job = client.post("/v1/jobs", json={"prompt": "Mia", "references": [asset]}).json["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    client.delete(f"/v1/assets/{asset}")
    assert client.post(f"/v1/jobs/{job}/retry").json["code"] == "reference_deleted"
    house.clock.advance(timedelta(hours=2))
    sweep_once(house.backends, house.settings)
    an_upload(client, a_picture())
    again = client.post(f"/v1/jobs/{job}/retry")
    assert again.status_code == 202
    [pinned] = house.backends.jobs.get(again.json["id"]).scene.references
    assert house.backends.artifacts.get(pinned.artifact, pinned.generation)
    assert house.backends.jobs.get(again.json["id"]).recipe == house.backends.jobs.get(job).recipe


@pytest.mark.parametrize("by_retry", [False, True])
def test_a_new_take_draws_from_the_bytes_that_its_reference_has_now(
    house: House, by_retry: bool
) -> None:
    client = house.client
    asset = an_upload(client, a_picture()).json["id"]
    scenes = [{"key": "p1", "prompt": "Mia", "references": [asset]}]
    batch = client.post("/v1/batches", json={"title": "Mia", "scenes": scenes}).json["id"]
    client.post(f"/v1/batches/{batch}/cancel", json={})
    [stored] = (house.settings.data / "artifacts").rglob("assets/**/*.png")
    stored.unlink()
    an_upload(client, a_picture())
    if by_retry:
        [old] = client.get("/v1/jobs").json["data"]
        job = client.post(f"/v1/jobs/{old['id']}/retry").json["id"]
    else:
        wish = {"select": {"all": True}, "force": True}
        [job] = client.post(f"/v1/batches/{batch}/reprocess", json=wish).json["jobs"]
    [pinned] = house.backends.jobs.get(job).scene.references
    assert house.backends.artifacts.get(pinned.artifact, pinned.generation)


def test_a_reprocess_that_draws_nothing_pins_no_asset(house: House) -> None:
    client = house.client
    scenes = [{"key": "p1", "prompt": "Mia"}]
    batch = client.post("/v1/batches", json={"title": "Mia", "scenes": scenes}).json["id"]
    asset = an_upload(client, a_picture()).json["id"]
    wish = {
        "select": {"all": True},
        "overrides": {"references": [asset]},
    }  # the scene is still in progress
    assert client.post(f"/v1/batches/{batch}/reprocess", json=wish).json["selected"] == 0
    assert client.delete(f"/v1/assets/{asset}").status_code == 204
