"""One illo, real processes, real pictures: what a person sees of it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.pictures import a_picture, opened
from tests.service import FINAL, Service, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("up") / "data", sweep_seconds="0.5") as service:
        yield service


def drawn(service: Service, **wish: Any) -> dict[str, Any]:
    given = {"prompt": "Mia hides under the bed", "width": 96, "height": 64, "steps": 4, "seed": 7}
    job = service.ended(service.post("/v1/jobs", given | wish)["id"])
    assert job["status"] == "succeeded", job["error"]
    return job


def test_a_picture_has_exactly_the_size_asked_for_and_tells_its_recipe(service: Service) -> None:
    mia = service.upload(a_picture())
    job = drawn(service, references=[mia], width=208, height=112, steps=3, guidance=3.5)
    picture = opened(service.image(job))
    assert picture.size == (208, 112)
    told = picture.text  # type: ignore[attr-defined]
    assert told["prompt"] == "Mia hides under the bed"
    assert (told["seed"], told["steps"], told["guidance"]) == ("7", "3", "3.5")
    assert told["weights"] == job["weights"]["label"]
    assert told["weights_sha256"] == job["weights"]["sha256"]
    assert len(told["references"]) == 64


def test_a_picture_whose_size_nobody_chose_is_as_large_as_the_artist_draws(
    service: Service,
) -> None:
    mia = service.upload(a_picture())
    job = drawn(service, references=[mia], width=None, height=None, steps=2)
    assert opened(service.image(job)).size == (128, 128)


def test_the_same_recipe_drawn_again_has_the_same_bytes(service: Service) -> None:
    mia = service.upload(a_picture())
    first, again = (drawn(service, references=[mia]) for _ in range(2))
    assert first["id"] != again["id"]
    assert service.image(first) == service.image(again)


def test_reference_prompt_and_seed_each_change_the_picture(service: Service) -> None:
    mia, leo = service.upload(a_picture("tomato")), service.upload(a_picture("royalblue"))
    pictures = {
        service.image(drawn(service, **wish))
        for wish in (
            {"references": [mia]},
            {"references": [leo]},
            {},
            {"seed": 8},
            {"prompt": "Mia looks out of the window"},
        )
    }
    assert len(pictures) == 5


def test_each_of_several_images_is_the_one_its_seed_draws_alone(service: Service) -> None:
    several = drawn(service, count=3, seed=20)
    assert [image["seed"] for image in several["images"]] == [20, 21, 22]
    alone = drawn(service, seed=21)
    assert opened(service.image(several, 1)).tobytes() == opened(service.image(alone)).tobytes()


def test_a_running_job_is_canceled_before_its_end(service: Service) -> None:
    job = service.post("/v1/jobs", {"prompt": "a long one", "width": 256, "height": 256,
                                    "steps": 100, "count": 4})  # fmt: skip
    service.until(
        lambda: service.get(f"/v1/jobs/{job['id']}"),
        lambda seen: (seen["progress"] or {}).get("step", 0) >= 1,
    )
    service.post(f"/v1/jobs/{job['id']}/cancel", {})
    ended = service.ended(job["id"])
    assert ended["status"] == "canceled"
    assert ended["images"] == []


def test_a_worker_that_is_told_to_stop_gives_its_job_back(service: Service) -> None:
    import os
    import signal

    job = service.post("/v1/jobs", {"prompt": "a long one", "width": 192, "height": 192,
                                    "steps": 100, "count": 2})["id"]  # fmt: skip
    service.until(
        lambda: service.get(f"/v1/jobs/{job}"),
        lambda seen: (seen["progress"] or {}).get("step", 0) >= 1,
    )
    os.kill(service.pids()["worker"][0], signal.SIGTERM)
    ended = service.ended(job)
    events = [moment["event"] for moment in ended["timeline"]]
    assert events == ["queued", "claimed", "released", "claimed", "succeeded"]


def test_nothing_is_drawn_while_the_queue_is_paused(service: Service) -> None:
    service.post("/v1/queue/pause", {"reason": "cleaning the brushes"})
    job = service.post("/v1/jobs", {"prompt": "later", "width": 64, "height": 64, "steps": 1})
    waiting = service.get(f"/v1/jobs/{job['id']}?wait=2")
    assert waiting["status"] == "queued"
    assert "cleaning the brushes" in waiting["queue"]["reason"]
    service.post("/v1/queue/resume", {})
    assert service.ended(job["id"])["status"] == "succeeded"


def test_a_long_poll_tells_every_step_of_the_way(service: Service) -> None:
    job = service.post("/v1/jobs", {"prompt": "step by step", "width": 128, "height": 128,
                                    "steps": 60, "count": 2})  # fmt: skip
    seen = [job]
    while seen[-1]["status"] not in FINAL:
        seen.append(service.get(f"/v1/jobs/{job['id']}?wait=20"))
    assert seen[-1]["status"] == "succeeded"
    assert len({view["version"] for view in seen}) > 3


def test_forged_pushes_touch_nothing(service: Service) -> None:
    job = service.post("/v1/jobs", {"prompt": "x", "width": 64, "height": 64, "steps": 1})
    service.ended(job["id"])
    before = service.get(f"/v1/jobs/{job['id']}")
    port = _worker_port(service)
    import urllib3

    for headers in ({}, {"Authorization": "Bearer x.y.z"}):
        answer = urllib3.request(
            "POST", f"http://127.0.0.1:{port}/push", body=b"{}", headers=headers
        )
        assert answer.status == 401
    assert service.get(f"/v1/jobs/{job['id']}") == before


def test_half_sent_requests_do_not_keep_others_out(service: Service) -> None:
    ports = (int(service.url.rsplit(":", 1)[1]), _worker_port(service))
    with ExitStack() as idle:
        for port in ports:
            for _ in range(150):
                opened = idle.enter_context(socket.create_connection(("127.0.0.1", port)))
                opened.sendall(b"POST /push HTTP/1.1\r\nHost: localhost\r\n")
        assert drawn(service, steps=1)["status"] == "succeeded"


def _worker_port(service: Service) -> int:
    import json

    for line in (service.data / "logs" / "worker-1.log").read_text().splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("message") == "listening":
            return int(event["port"])
    raise AssertionError("the worker never listened")


def test_fifty_equal_requests_at_once_are_one_job_with_one_answer(service: Service) -> None:
    body = {"prompt": "once", "width": 64, "height": 64, "steps": 2}
    start, answers = threading.Barrier(50), []

    def ask() -> None:
        start.wait(30)
        answer = service.request(
            "POST", "/v1/jobs", json=body, headers={"Idempotency-Key": "only once"}
        )
        answers.append((answer.status, answer.data, answer.headers.get("Idempotency-Replayed")))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 50
    assert {status for status, _, _ in answers} == {202}
    assert len({content for _, content, _ in answers}) == 1
    assert sorted(replayed or "" for _, _, replayed in answers) == [""] + ["true"] * 49


def test_nothing_is_left_of_a_service_that_was_asked_to_end(tmp_path: Path) -> None:
    import os

    with running(tmp_path / "data") as service:
        pids = service.pids()
    everyone = [pids["api"], pids["queue"], *pids["worker"]]
    for pid in everyone:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
