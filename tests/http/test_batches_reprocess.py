"""Reprocessing: which scenes get a new take, what it draws, and what repeating it does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.idempotency import KEPT_FOR
from api.reprocess import CHUNK
from shared.errors import StoreUnavailable
from shared.scenes import recipe_of
from tests.http.conftest import House, a_picture, an_upload, pointers
from tests.http.stories import (
    SMALL,
    draw_scenes,
    expand_all,
    newest_job,
    spoil,
    start,
    submitted,
)

ALL = {"all": True}


def reprocess(
    client: FlaskClient, batch: str, select: Any = ALL, key: str | None = None, **more: Any
) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(f"{batch}/reprocess", json={"select": select} | more, headers=headers)


def taken(client: FlaskClient, batch: str) -> dict[str, int]:
    """The number of each scene's newest take."""
    scenes = client.get(f"{batch}/scenes?limit=200").json["data"]
    return {scene["key"]: scene["newest"]["take"] for scene in scenes}


@pytest.fixture
def mixed(house: House, client: FlaskClient) -> str:
    """A batch of scenes that are drawn, failed, canceled, running, queued and edited since."""
    batch = submitted(client, "drawn", "failed", "canceled", "running", "queued", "edited")
    draw_scenes(house, client, batch, "drawn", "edited")
    spoil(house, newest_job(client, batch, "failed"))
    client.post(f"/v1/jobs/{newest_job(client, batch, 'canceled')}/cancel", json={})
    start(house, newest_job(client, batch, "running"))
    client.put(f"{batch}/scenes/edited", json={"prompt": "Another"})
    return batch


@pytest.mark.parametrize(
    ("select", "again", "skipped"),
    [
        ({"status": ["failed"]}, {"failed"}, {}),
        ({"status": ["failed", "canceled"]}, {"failed", "canceled"}, {}),
        ({"status": ["running"]}, set(), {"running": "in_progress"}),
        ({"status": ["succeeded"]}, {"edited"}, {"drawn": "unchanged"}),
        ({"scenes": ["queued", "failed", "failed"]}, {"failed"}, {"queued": "in_progress"}),
        ({"stale": True}, {"edited"}, {}),
        (ALL, {"failed", "canceled", "edited"},
         {"drawn": "unchanged", "running": "in_progress", "queued": "in_progress"}),
    ],
)  # fmt: skip
def test_what_is_selected_gets_a_take_unless_it_needs_none(
    client: FlaskClient, mixed: str, select: Any, again: set[str], skipped: dict[str, str]
) -> None:
    dry = reprocess(client, mixed, select, dry_run=True)
    assert set(taken(client, mixed).values()) == {1}
    answer = reprocess(client, mixed, select)
    assert (answer.status_code, dry.status_code) == (202, 202)
    assert dry.json == answer.json | {"dry_run": True}
    assert answer.json["selected"] == len(answer.json["jobs"]) == len(again)
    assert {each["key"]: each["reason"] for each in answer.json["skipped"]} == skipped
    numbers = taken(client, mixed)
    assert {key for key, number in numbers.items() if number == 2} == again
    assert {newest_job(client, mixed, key) for key in again} == set(answer.json["jobs"])


def test_force_draws_also_what_has_not_changed_but_never_what_is_being_drawn(
    client: FlaskClient, mixed: str
) -> None:
    answer = reprocess(client, mixed, force=True).json
    assert answer["selected"] == 4
    assert {each["reason"] for each in answer["skipped"]} == {"in_progress"}


@pytest.mark.parametrize(
    "select",
    [{}, {"all": False}, {"stale": False}, {"all": True, "stale": True},
     {"status": ["failed"], "scenes": ["failed"]}],
)  # fmt: skip
def test_scenes_are_selected_in_exactly_one_way(
    client: FlaskClient, mixed: str, select: Any
) -> None:
    answer = reprocess(client, mixed, select)
    assert (answer.status_code, pointers(answer)) == (422, ["/select"])


def test_unknown_keys_are_named_and_nothing_is_changed(client: FlaskClient, mixed: str) -> None:
    answer = reprocess(client, mixed, {"scenes": ["failed", "nobody", "drawn", "none"]})
    assert (answer.status_code, pointers(answer)) == (422, ["/select/scenes/1", "/select/scenes/3"])
    assert set(taken(client, mixed).values()) == {1}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"overrides": {"steps": 0}}, "/overrides/steps"),
        ({"overrides": {"key": "p1"}}, "/overrides/key"),
        ({"overrides": {"height": None}}, "/overrides/height"),
        ({"overrides": {"width": 2048, "height": 2048}}, "/overrides/width"),
        ({"overrides": {"references": ["ast_0"]}}, "/overrides/references/0"),
        ({"overrides": {"style": "x" * 2000, "prompt": "x" * 3000}}, "/overrides/prompt"),
        ({"overrides": {"seed": 1}, "seed": "new"}, "/seed"),
        ({"seed": "random"}, "/seed"),
    ],
)
def test_overrides_that_do_not_fit_are_refused_before_anything_is_changed(
    client: FlaskClient, mixed: str, body: Any, where: str
) -> None:
    answer = reprocess(client, mixed, **body)
    assert (answer.status_code, set(pointers(answer))) == (422, {where})
    assert set(taken(client, mixed).values()) == {1}


def test_overrides_are_what_the_scene_wants_from_then_on(house: House, client: FlaskClient) -> None:
    batch = submitted(client, "p1", "p2", defaults=SMALL | {"style": "soft"})
    draw_scenes(house, client, batch, "p1", "p2")
    before = client.get(f"{batch}/scenes/p1").json
    asset = an_upload(client, a_picture()).json["id"]
    wished = {"steps": 7, "references": [asset], "metadata": {"round": "2"}}
    answer = reprocess(client, batch, {"scenes": ["p1"]}, overrides=wished).json
    scene = client.get(f"{batch}/scenes/p1").json
    assert scene["input"] == before["input"] | {"steps": 7, "references": [asset]}
    assert (scene["revision"], scene["newest"]["take"]) == (2, 2)
    [job] = [house.backends.jobs.get(id) for id in answer["jobs"]]
    stored = house.backends.batches.scene(batch.rpartition("/")[2], "p1")
    assert job.recipe == recipe_of(job.scene) == recipe_of(stored.scene)
    assert (job.metadata["round"], stored.source["steps"]) == ("2", 7)
    assert client.get(f"/v1/assets/{asset}").json["expires_at"] is None
    draw_scenes(house, client, batch, "p1")
    assert client.get(batch).json["stale"] == 0
    assert reprocess(client, batch).json["selected"] == 0
    assert (
        client.get(f"{batch}/scenes/p1").json["takes"][-1]["recipe"] == before["newest"]["recipe"]
    )


def test_a_scene_whose_upload_was_deleted_can_still_be_drawn_again(
    house: House, client: FlaskClient
) -> None:
    asset = an_upload(client, a_picture()).json["id"]
    batch = submitted(client, "p1", defaults=SMALL | {"references": [asset]})
    draw_scenes(house, client, batch, "p1")
    house.backends.assets.delete("local", asset)
    assert reprocess(client, batch, force=True).json["selected"] == 1
    spoil(house, newest_job(client, batch, "p1"))
    answer = reprocess(client, batch, overrides={"steps": 3})
    assert (answer.status_code, pointers(answer)) == (422, ["/overrides/references/0"])


@pytest.mark.parametrize(
    ("seed", "moves"),
    [("keep", lambda old, new: new == old), ("increment", lambda old, new: new == old + 1),
     ("new", lambda old, new: new != old)],
)  # fmt: skip
def test_seeds_are_kept_counted_up_or_drawn(
    house: House, client: FlaskClient, seed: str, moves: Callable[[int, int], bool]
) -> None:
    batch = submitted(client, "p1", defaults=SMALL | {"seed": {"policy": "fixed", "base": 41}})
    draw_scenes(house, client, batch, "p1")
    reprocess(client, batch, seed=seed, force=True)
    scene = client.get(f"{batch}/scenes/p1").json
    assert moves(41, scene["input"]["seed"])
    assert scene["newest"]["seed"] == scene["input"]["seed"]


def test_a_reprocess_revives_a_canceled_batch_if_it_draws_anything(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, "p1", "p2")
    draw_scenes(house, client, batch, "p1")
    client.post(f"{batch}/cancel", json={})
    assert client.get(batch).json["status"] == "canceled"
    reprocess(client, batch, {"scenes": ["p1"]})
    assert client.get(batch).json["status"] == "canceled"
    reprocess(client, batch, {"status": ["canceled"]})
    assert client.get(batch).json["status"] == "running"
    draw_scenes(house, client, batch, "p2")
    assert client.get(batch).json["status"] == "completed"


def test_a_batch_that_is_still_being_expanded_is_reprocessed_as_a_whole(
    client: FlaskClient,
) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(230)))
    client.post(f"{batch}/cancel", json={})
    answer = reprocess(client, batch).json
    assert (answer["selected"], answer["skipped"]) == (230, [])
    assert client.get(batch).json["counts"]["queued"] == 230


def test_a_reprocess_wakes_two_for_each_worker(house: House, client: FlaskClient) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(30)))
    client.post(f"{batch}/cancel", json={})
    house.publisher.wakes.clear()
    jobs = reprocess(client, batch).json["jobs"]
    woken = [wake.job for wake in house.publisher.wakes]
    assert woken == jobs[: 2 * house.settings.workers]


# --- repeating --------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer(house: House, client: FlaskClient) -> None:
    batch = submitted(client)
    client.post(f"{batch}/cancel", json={})
    first, again = (reprocess(client, batch, key="k") for _ in range(2))
    assert again.data == first.data
    assert set(taken(client, batch).values()) == {2}
    assert reprocess(client, batch, key="k", force=True).status_code == 422


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_reprocess_that_was_killed_is_finished_by_the_same_request(
    house: House, client: FlaskClient, killed_at: int
) -> None:
    keys = [f"p{i:03}" for i in range(2 * CHUNK + 10)]
    batch = submitted(client, *keys)
    expand_all(house)
    for key in keys:
        spoil(house, newest_job(client, batch, key))
    wish: dict[str, Any] = {"select": {"status": ["failed"]}, "seed": "new", "key": "k"}
    killed = house.client_over(dying(house, killed_at))
    assert reprocess(killed, batch, **wish).status_code == 503
    halfway = list(taken(client, batch).values())
    answer = reprocess(client, batch, **wish).json
    assert (answer["selected"], answer["skipped"]) == (len(keys), [])
    assert len(set(answer["jobs"])) == len(keys)
    assert set(taken(client, batch).values()) == {2}
    assert killed_at == 1 or 2 in halfway, "nothing had been done when it was killed"


def dying(house: House, nth: int) -> Any:
    """Backends whose nth transaction on scenes is never answered; odd ones are not done either."""
    batches, calls = house.backends.batches, list[int]()

    class Dying:
        def __getattr__(self, name: str) -> Any:
            return getattr(batches, name)

        def update_scenes(self, *given: Any) -> Any:
            calls.append(1)
            if len(calls) == nth:
                if nth % 2 == 0:
                    batches.update_scenes(*given)
                raise StoreUnavailable("killed here")
            return batches.update_scenes(*given)

    return replace(house.backends, batches=Dying())


def test_a_key_that_was_forgotten_asks_anew(house: House, client: FlaskClient) -> None:
    batch = submitted(client, "p1")
    draw_scenes(house, client, batch, "p1")
    first = reprocess(client, batch, key="k", force=True).json["jobs"]
    draw_scenes(house, client, batch, "p1")
    house.clock.advance(KEPT_FOR)
    second = reprocess(client, batch, key="k", force=True).json["jobs"]
    assert len(second) == 1
    assert second != first


def test_without_a_key_every_request_asks_anew(house: House, client: FlaskClient) -> None:
    batch = submitted(client, "p1")
    for number in (2, 3):
        draw_scenes(house, client, batch, "p1")
        assert reprocess(client, batch, force=True).json["selected"] == 1
        assert taken(client, batch) == {"p1": number}


# --- retrying one job -------------------------------------------------------------------------


def test_retrying_a_batchs_job_is_a_new_take_of_its_scene(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, "p1", "p2")
    job = newest_job(client, batch, "p1")
    spoil(house, job)
    client.put(f"{batch}/scenes/p1", json={"prompt": "Another"})
    answers = [
        client.post(f"/v1/jobs/{job}/retry", json={}, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert answers[0].status_code == 202
    assert answers[0].data == answers[1].data
    told = answers[0].json
    assert (told["retry_of"], told["batch"]["take"]) == (job, 2)
    assert told["input"]["prompt"] == "Another"
    assert newest_job(client, batch, "p1") == told["id"]
    busy = client.post(f"/v1/jobs/{job}/retry", json={})
    assert (busy.status_code, busy.json["code"]) == (409, "in_progress")


def test_metadata_of_batch_and_scene_together_stay_within_a_jobs_limit(client: FlaskClient) -> None:
    batch = submitted(client, "p1", metadata={f"b{i}": "x" for i in range(10)})
    fits, excess = ({f"s{i}": "x" for i in range(count)} for count in (6, 7))
    scene = f"{batch}/scenes/p1"
    assert client.put(scene, json={"prompt": "x", "metadata": fits}).status_code == 200
    refused = client.put(scene, json={"prompt": "x", "metadata": excess})
    assert refused.status_code == 422
    assert refused.json["errors"][0]["pointer"] == "/metadata"
    assert client.get(scene).json["revision"] == 2
