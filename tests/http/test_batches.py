"""Batches over HTTP: submitting, reading, editing, accepting, canceling, gathering results."""

import json
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.batch_requests import LARGEST_BATCH, MOST_SCENES
from api.server import LARGEST_BODY
from tests.http.conftest import House, a_picture, an_upload, pointers
from tests.http.stories import (
    BATCHES,
    SMALL,
    draw,
    draw_scenes,
    expand_all,
    newest_job,
    scenes_of,
    spoil,
    start,
    submit,
    submitted,
)

# --- submitting -------------------------------------------------------------------------------


def test_a_batch_is_accepted_with_everything_it_said(client: FlaskClient) -> None:
    seed = {"policy": "increment", "base": 4294967295}
    answer = submit(client, title="Storm", metadata={"book": "42"}, defaults=SMALL | {"seed": seed})
    assert (answer.status_code, answer.json["status"]) == (202, "accepting")
    batch = client.get(answer.headers["Location"]).json
    assert (batch["title"], batch["metadata"]) == ("Storm", {"book": "42"})
    assert batch["defaults"] == SMALL | {"seed": seed}
    assert (batch["status"], batch["scene_count"], batch["counts"]["queued"]) == ("running", 3, 3)
    scenes = client.get(f"{BATCHES}/{batch['id']}/scenes").json["data"]
    assert [scene["input"]["seed"] for scene in scenes] == [4294967295, 0, 1]
    assert [scene["key"] for scene in scenes] == ["p1", "p2", "p3"]


def test_a_base_that_is_not_given_is_drawn_and_told(client: FlaskClient) -> None:
    first = client.get(submitted(client, defaults=SMALL | {"seed": {"policy": "fixed"}})).json
    second = client.get(submitted(client)).json
    base = first["defaults"]["seed"]["base"]
    scenes = client.get(f"{BATCHES}/{first['id']}/scenes").json["data"]
    assert {scene["input"]["seed"] for scene in scenes} == {base}
    assert second["defaults"]["seed"]["policy"] == "per_scene"
    assert second["defaults"]["seed"]["base"] != base


def test_every_bad_scene_is_listed_and_nothing_is_stored(house: House, client: FlaskClient) -> None:
    scenes = [
        *scenes_of("ok", "with space"),
        {"key": "..", "prompt": "x", "width": 65, "depth": 3},
        {"key": "p3", "prompt": ""},
        {"prompt": "x"},
    ]
    answer = submit(client, scenes=scenes, defaults={"width": "64", "prompt": "x"})
    assert answer.status_code == 422
    assert set(pointers(answer)) == {
        "/defaults/width", "/defaults/prompt", "/scenes/1/key", "/scenes/2/key",
        "/scenes/2/width", "/scenes/2/depth", "/scenes/3/prompt", "/scenes/4/key",
    }  # fmt: skip
    assert house.backends.batches.unfinished(9) == []
    assert not (house.settings.data / "artifacts" / "batches").exists()


@pytest.mark.parametrize(("bad", "listed"), [(100, 100), (101, 101), (5000, 101)])
def test_a_flood_of_faults_is_cut_short(client: FlaskClient, bad: int, listed: int) -> None:
    scenes = [{"key": f"p{i}", "prompt": "x", "steps": 0} for i in range(bad)]
    answer = submit(client, scenes=scenes)
    assert len(pointers(answer)) == listed
    assert pointers(answer)[99] == "/scenes/99/steps"
    if bad > 100:
        assert f"{bad - 100:,} more" in answer.json["errors"][-1]["detail"]


def test_faults_elsewhere_are_counted_with_those_of_the_scenes(client: FlaskClient) -> None:
    scenes = [{"key": f"p{i}", "prompt": "x\x00"} for i in range(250)]
    answer = submit(client, scenes=scenes, title=3)
    assert answer.json["detail"] == "the request has 251 faults"
    *listed, last = answer.json["errors"]
    assert (len(listed), listed[0]["pointer"]) == (100, "/title")
    assert last == {"pointer": "/scenes", "detail": "and 151 more faults, not listed"}
    assert {fault["detail"] for fault in listed[1:]} == {
        "should say something, and have no control characters but newline and tab"
    }


def test_a_scene_far_down_the_list_is_pointed_at(client: FlaskClient) -> None:
    scenes = [*scenes_of(*(f"p{i}" for i in range(250))), {"key": "last", "prompt": ""}]
    assert pointers(submit(client, scenes=scenes)) == ["/scenes/250/prompt"]


def test_a_flood_of_unknown_names_is_cut_short(client: FlaskClient) -> None:
    odd = {"key": "p", "prompt": "x"} | {f"n{i}": 1 for i in range(200)}
    answer = submit(client, scenes=[odd] * 300)
    assert answer.json["detail"] == "the request has 60,000 faults"
    assert len(pointers(answer)) == 101
    too_odd = odd | {f"m{i}": 1 for i in range(55)}
    refused = submit(client, scenes=[too_odd])
    assert (refused.status_code, refused.json["code"]) == (400, "malformed_json")
    assert "257 names" in refused.json["detail"]


def test_a_list_of_endless_scenes_is_refused_before_it_is_read(client: FlaskClient) -> None:
    def post(count: int) -> Any:
        body = b'{"scenes":[' + b",".join([b"[]"] * count) + b"]}"
        return client.post(BATCHES, data=body, content_type="application/json")

    read = post(199_999)  # two values for each, and two for what is around them
    assert (read.status_code, pointers(read)) == (422, ["/scenes"])
    assert "199,999 scenes" in read.json["errors"][0]["detail"]
    refused = post(200_000)
    assert (refused.status_code, refused.json["code"]) == (400, "malformed_json")


def test_the_largest_batch_in_chinese_fits_and_the_limit_is_told(client: FlaskClient) -> None:
    usual = {"key": "p1000", "prompt": "画" * 4000} | SMALL | {"style": None, "seed": 2**32 - 1}
    scene = len(json.dumps(usual, ensure_ascii=False).encode())
    assert scene * MOST_SCENES < LARGEST_BATCH < LARGEST_BODY
    answer = client.post(
        BATCHES, content_type="application/json", environ_overrides={"CONTENT_LENGTH": "133169153"}
    )
    assert (answer.status_code, answer.json["code"]) == (413, "too_large")
    assert "at most 133,169,152 bytes" in answer.json["detail"]


def words(letter: str, count: int) -> dict[str, str]:
    return {f"{letter}{i}": "x" for i in range(count)}


@pytest.mark.parametrize(
    ("scene", "defaults", "where"),
    [
        (words("s", 6), {}, []),
        (words("s", 7), {}, ["/scenes/0/metadata"]),
        (words("s", 16), {}, ["/scenes/0/metadata"]),
        (words("b", 10) | words("s", 6), {}, []),
        (None, words("d", 6), []),
        (None, words("d", 7), ["/defaults/metadata"]),
        (words("s", 6), words("d", 7), []),
    ],
)
def test_a_job_gets_no_more_metadata_than_it_may_have(
    client: FlaskClient, scene: Any, defaults: dict[str, str], where: list[str]
) -> None:
    said = {} if scene is None else {"metadata": scene}
    answer = submit(
        client,
        scenes=[{"key": "p1", "prompt": "x", **said}],
        defaults=SMALL | {"metadata": defaults},
        metadata=words("b", 10),
    )
    assert answer.status_code == (422 if where else 202)
    if where:
        assert pointers(answer) == where
    else:
        job = client.get("/v1/jobs").json["data"][0]
        assert 10 <= len(job["metadata"]) <= 16


@pytest.mark.parametrize(
    ("key", "good"),
    [("a" * 64, True), ("a" * 65, False), ("", False), ("A-z_0.9", True), ("a/b", False),
     (".", False), ("..a", True), ("a\n", False), ("é", False)],
)  # fmt: skip
def test_keys_are_what_files_may_be_called(client: FlaskClient, key: str, good: bool) -> None:
    answer = submit(client, key)
    assert answer.status_code == (202 if good else 422)


@pytest.mark.parametrize(("count", "status"), [(0, 422), (1, 202), (MOST_SCENES + 1, 422)])
def test_a_batch_has_one_to_ten_thousand_scenes(
    client: FlaskClient, count: int, status: int
) -> None:
    answer = submit(client, scenes=scenes_of(*(f"p{i}" for i in range(count))))
    assert answer.status_code == status
    if status == 422:
        assert pointers(answer) == ["/scenes"]


@pytest.mark.slow
def test_ten_thousand_scenes_are_accepted_with_a_handful_of_messages(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(MOST_SCENES)))
    assert client.get(batch).json["status"] == "accepting"
    expand_all(house)
    counts = client.get(batch).json["counts"]
    assert counts == {"queued": MOST_SCENES} | dict.fromkeys(
        ("running", "succeeded", "failed", "canceled"), 0
    )
    assert len(house.publisher.wakes) == 2 * house.settings.workers


def test_a_batch_is_accepted_though_no_message_can_be_sent(
    house: House, client: FlaskClient
) -> None:
    house.publisher.down = True
    assert client.get(submitted(client)).json["counts"]["queued"] == 3


def test_lines_of_json_are_not_read_yet(client: FlaskClient) -> None:
    answer = client.post(BATCHES, data=b"{}\n{}", content_type="application/x-ndjson")
    assert (answer.status_code, answer.json["code"]) == (400, "not_available")


@pytest.mark.parametrize("where", ["defaults", "scene"])
@pytest.mark.parametrize(("count", "status"), [(4, 202), (5, 422)])
def test_scenes_of_a_batch_take_up_to_four_references(
    client: FlaskClient, where: str, count: int, status: int
) -> None:
    many = {"references": [an_upload(client, a_picture()).json["id"]] * count}
    defaults = SMALL | (many if where == "defaults" else {})
    scenes = [{"key": "p1", "prompt": "x"} | (many if where == "scene" else {})]
    answer = submit(client, defaults=defaults, scenes=scenes)
    assert answer.status_code == status
    if status == 422:
        assert pointers(answer) == [
            "/defaults/references" if where == "defaults" else "/scenes/0/references"
        ]


def test_a_batchs_reference_is_kept_without_a_date(house: House, client: FlaskClient) -> None:
    asset = an_upload(client, a_picture()).json["id"]
    submitted(client, defaults=SMALL | {"references": [asset]})
    assert client.get(f"/v1/assets/{asset}").json["expires_at"] is None


def test_the_same_request_again_is_the_same_batch_and_another_is_refused(
    house: House, client: FlaskClient
) -> None:
    key = {"Idempotency-Key": "story-1"}
    first, again = submit(client, headers=key), submit(client, headers=key)
    assert (again.data, again.headers["Idempotency-Replayed"]) == (first.data, "true")
    assert submit(client, "other", headers=key).status_code == 422
    assert len(client.get("/v1/jobs").json["data"]) == 3


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", "/scenes", "/scenes/p1", "/results.jsonl", "/contact-sheet.png"]
)
def test_a_batch_that_is_not_there_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(f"{BATCHES}/bat_none{path}").status_code == 404


def test_the_archive_is_not_available_yet(client: FlaskClient) -> None:
    assert client.get(submitted(client) + "/archive.zip").json["code"] == "not_available"


def test_a_batch_tells_how_far_it_is_and_what_it_cost(house: House) -> None:
    client = house.with_settings(price_per_gpu_second=0.5).client
    batch = submitted(client, "p1", "p2", "p3", "p4")
    draw_scenes(house, client, batch, "p1", "p2")
    spoil(house, newest_job(client, batch, "p3"))
    told = client.get(batch).json
    assert told["progress"] == {"finished": 3, "fraction": 0.75}
    assert (told["gpu_seconds"], told["cost"]) == (4.0, {"currency": "USD", "amount": 2.0})
    assert told["status"] == "running"
    draw_scenes(house, client, batch, "p4")
    assert client.get(batch).json["status"] == "completed_with_failures"


def test_a_batch_of_which_nothing_is_drawn_is_shown_without_reading_its_scenes(
    house: House, client: FlaskClient
) -> None:
    class Unread:
        def __getattr__(self, name: str) -> Any:
            assert name != "scenes"
            return getattr(house.backends.batches, name)

    batch = submitted(client)
    spoil(house, newest_job(client, batch, "p1"))
    polled = house.client_over(replace(house.backends, batches=Unread()))  # type: ignore[arg-type]
    assert (polled.get(batch).status_code, polled.get(batch).json["stale"]) == (200, 0)


def test_scenes_are_paged_in_order_and_found_by_the_status_of_their_newest_take(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(7)))
    draw_scenes(house, client, batch, "p1", "p4", "p6")

    def pages(query: str) -> list[list[str]]:
        found, cursor = [], ""
        while cursor is not None:
            page = client.get(f"{batch}/scenes?{query}{cursor and '&cursor=' + cursor}")
            found.append([scene["key"] for scene in page.json["data"]])
            cursor = page.json["next_cursor"]
            assert (cursor is None) == ("Link" not in page.headers)
        return found

    assert pages("limit=3") == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6"]]
    assert pages("limit=7") == [[f"p{i}" for i in range(7)]]
    assert pages("limit=2&status=succeeded") == [["p1", "p4"], ["p6"]]
    assert pages("status=failed") == [[]]


@pytest.mark.parametrize("cursor", ["x", "after-3", "3", "3-", "-3", "²-0", "3-0123456789abcdef"])
def test_a_cursor_of_another_list_is_refused(client: FlaskClient, cursor: str) -> None:
    answer = client.get(submitted(client) + "/scenes", query_string={"cursor": cursor})
    assert (answer.status_code, pointers(answer)) == (422, ["/cursor"])


def test_a_cursor_continues_only_the_list_that_gave_it(client: FlaskClient) -> None:
    one, other = submitted(client), submitted(client)
    cursor = client.get(f"{one}/scenes?limit=1&status=queued").json["next_cursor"]
    continued = client.get(f"{one}/scenes?limit=2&status=queued&cursor={cursor}").json["data"]
    assert [scene["key"] for scene in continued] == ["p2", "p3"]
    _, _, digest = cursor.partition("-")
    for path in (
        f"{other}/scenes?status=queued&cursor={cursor}",
        f"{one}/scenes?cursor={cursor}",
        f"{one}/scenes?status=failed&cursor={cursor}",
        f"{one}/scenes?status=queued&cursor=1-{digest}",
        f"{one}/scenes?status=queued&cursor=00-{digest}",
    ):
        answer = client.get(path)
        assert (answer.status_code, pointers(answer)) == (422, ["/cursor"])


def test_a_scene_shows_its_takes_and_its_pictures(house: House, client: FlaskClient) -> None:
    batch = submitted(client)
    job = newest_job(client, batch, "p1")
    draw(house, job, b"the very picture")
    scene = client.get(f"{batch}/scenes/p1").json
    assert scene["accepted"] == scene["newest"] == scene["takes"][0]
    assert (scene["newest"]["take"], scene["newest"]["accepted"]) == (1, True)
    assert client.get(scene["accepted"]["images"][0]["url"]).data == b"the very picture"
    assert client.get(f"/v1/jobs/{job}").json["batch"] == {
        "id": batch.rpartition("/")[2], "scene": "p1", "take": 1,
    }  # fmt: skip
    assert client.get(f"{batch}/scenes/p9").status_code == 404


# --- editing and accepting --------------------------------------------------------------------


def test_an_edited_scene_is_stale_once_it_was_drawn_and_keeps_its_seed(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, defaults=SMALL | {"style": "soft"})
    before = client.get(f"{batch}/scenes/p1").json
    draw_scenes(house, client, batch, "p1")
    edited = client.put(f"{batch}/scenes/p1", json={"prompt": "Under the bed", "steps": 5})
    assert edited.status_code == 200
    assert edited.json["input"] == before["input"] | {"prompt": "Under the bed. soft", "steps": 5}
    assert (edited.json["revision"], edited.json["stale"]) == (2, True)
    assert client.get(batch).json["stale"] == 1
    undone = client.put(f"{batch}/scenes/p1", json={"prompt": "Scene p1"}).json
    assert (undone["revision"], undone["stale"]) == (3, False)
    same = client.put(f"{batch}/scenes/p1", json={"prompt": "Scene p1"}).json
    assert same["revision"] == 3


def test_an_edit_that_cannot_be_drawn_changes_nothing(client: FlaskClient) -> None:
    batch = submitted(client)
    before = client.get(f"{batch}/scenes/p1").json
    for body, where in (
        ({"prompt": "x", "height": None}, ["/height"]),
        ({"prompt": "x", "references": ["ast_0"]}, ["/references/0"]),
        ({"prompt": "x", "key": "p2"}, ["/key"]),
        ({}, ["/prompt"]),
    ):
        answer = client.put(f"{batch}/scenes/p1", json=body)
        assert (answer.status_code, pointers(answer)) == (422, where)
    assert client.get(f"{batch}/scenes/p1").json == before
    assert client.put(f"{batch}/scenes/p9", json={"prompt": "x"}).status_code == 404


def test_a_scene_can_be_edited_before_its_batch_is_expanded(client: FlaskClient) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(150)))
    assert client.get(batch).json["status"] == "accepting"
    assert client.put(f"{batch}/scenes/p149", json={"prompt": "x"}).status_code == 200


def again(client: FlaskClient, batch: str, **body: Any) -> Any:
    return client.post(f"{batch}/reprocess", json={"select": {"all": True}} | body)


def test_a_person_chooses_which_take_stands_for_a_scene(house: House, client: FlaskClient) -> None:
    batch = submitted(client, "p1")
    draw_scenes(house, client, batch, "p1")
    again(client, batch, seed="new")
    draw_scenes(house, client, batch, "p1")
    path = f"{batch}/scenes/p1"
    assert client.get(path).json["accepted"]["take"] == 2
    chosen = client.post(f"{path}/takes/1/accept", json={})
    assert (chosen.status_code, chosen.json["accepted"]["take"]) == (200, 1)
    assert chosen.json["stale"], "the scene now wants the new seed"
    again(client, batch, seed="new")
    assert client.post(f"{path}/takes/3/accept", json={}).json["code"] == "take_not_succeeded"
    spoil(house, newest_job(client, batch, "p1"))
    assert client.post(f"{path}/takes/3/accept", json={}).status_code == 409
    assert client.get(path).json["accepted"]["take"] == 1


@pytest.mark.parametrize("take", ["0", "2", "-1", "one", "01", "9" * 50, "²"])
def test_a_take_that_is_not_there_cannot_be_accepted(
    house: House, client: FlaskClient, take: str
) -> None:
    batch = submitted(client, "p1")
    draw_scenes(house, client, batch, "p1")
    answer = client.post(f"{batch}/scenes/p1/takes/{take}/accept", json={})
    assert answer.status_code == 404


# --- canceling --------------------------------------------------------------------------------


def test_a_canceled_batch_ends_what_waits_and_asks_of_what_is_drawn(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client)
    draw_scenes(house, client, batch, "p1")
    running = start(house, newest_job(client, batch, "p2"))
    answer = client.post(f"{batch}/cancel", json={})
    assert (answer.status_code, answer.json["status"]) == (200, "running")
    assert answer.json["counts"]["canceled"] == 1
    assert house.backends.jobs.get(running.id).cancel_requested_at
    house.backends.jobs.remove(running.id)
    repeated = client.post(f"{batch}/cancel", json={}).json
    assert (repeated["status"], repeated["counts"]["succeeded"]) == ("canceled", 1)


def test_a_batch_canceled_while_it_is_accepted_is_wholly_canceled(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(250)))
    client.post(f"{batch}/cancel", json={})
    expand_all(house)
    told = client.get(batch).json
    assert (told["status"], told["counts"]["canceled"]) == ("canceled", 250)


# --- results ----------------------------------------------------------------------------------


def test_results_have_a_line_for_every_scene_in_order(house: House, client: FlaskClient) -> None:
    batch = submitted(client, "p1", "p2", "p3")
    draw_scenes(house, client, batch, "p1")
    spoil(house, newest_job(client, batch, "p2"))
    answer = client.get(f"{batch}/results.jsonl")
    assert answer.content_type == "application/jsonl"
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [(line["key"], line["status"]) for line in lines] == [
        ("p1", "succeeded"), ("p2", "failed"), ("p3", "queued"),
    ]  # fmt: skip
    assert set(lines[0]) == {"key", "status", "take", "job", "images", "seed", "recipe", "error"}
    assert len(lines[0]["images"]) == 1
    assert lines[1]["error"]["code"] == "out_of_memory"


def test_results_show_the_accepted_take_while_a_newer_one_fails(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, "p1")
    draw_scenes(house, client, batch, "p1")
    again(client, batch, force=True)
    spoil(house, newest_job(client, batch, "p1"))
    [line] = client.get(f"{batch}/results.jsonl").data.splitlines()
    assert (json.loads(line)["take"], json.loads(line)["status"]) == (1, "succeeded")


def test_the_contact_sheet_is_a_png_with_pages(house: House, client: FlaskClient) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(201)))
    expand_all(house)
    for page, status in ((1, 200), (2, 200), (3, 404), (0, 422)):
        answer = client.get(f"{batch}/contact-sheet.png?page={page}")
        assert answer.status_code == status
        assert (answer.content_type == "image/png") == (status == 200)
