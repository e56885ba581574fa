"""What is shown of a job and of a batch while they are drawn."""

from typing import Any

import pytest

from deploy.client import Client
from deploy.following import batch_line, follow_batch, follow_job, job_line
from deploy.progress import Display
from tests.fake_service import FakeService, a_job_body


def drawing(scene: str, step: int, steps: int) -> dict[str, Any]:
    progress = {"phase": "denoising", "step": step, "steps": steps, "fraction": step / steps}
    place = {"id": "bat_a", "scene": scene, "take": 1}
    return a_job_body("running", progress=progress, batch=place)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (a_job_body("queued"), ("queued: next in turn", "", 0.0)),
        (a_job_body("queued", queue=None), ("queued", "", 0.0)),
        (a_job_body("running"), ("claimed", "", 0.0)),
        (drawing("p1", 1, 4), ("denoising", "step 1/4", 0.25)),
        (a_job_body("succeeded"), ("succeeded", "", 1.0)),
        (a_job_body("failed"), ("failed", "", 1.0)),
    ],
)
def test_a_job_says_what_goes_on_and_how_far_it_is(job: Any, line: object) -> None:
    assert job_line(job) == line


def test_a_batch_names_the_scenes_being_drawn_and_their_steps() -> None:
    batch = {"status": "running", "counts": {"succeeded": 1, "failed": 1, "running": 2}}
    what, detail, fraction = batch_line(batch, [drawing("p4", 1, 4), drawing("p3", 2, 4)])
    assert what == "2/4 scenes, drawing p3, p4"
    assert detail == "denoising step 2/4, denoising step 1/4"
    assert fraction == pytest.approx((2 + 0.5 + 0.25) / 4)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ({"reason": "a worker is starting: importing 0 %"}, "a worker is starting: importing 0 %"),
        ({"reason": None}, "waiting for their turn"),
        (None, "waiting for their turn"),
    ],
)
def test_a_batch_of_which_nothing_is_drawn_says_why(place: Any, words: str) -> None:
    batch = {"status": "running", "counts": {"queued": 2}}
    line = batch_line(batch, [], a_job_body("queued", queue=place))
    assert line == (f"0/2 scenes, {words}", "", 0.0)


@pytest.mark.parametrize("status", ["completed", "completed_with_failures", "canceled"])
def test_an_ended_batch_is_whole(status: str) -> None:
    assert batch_line({"status": status, "counts": {"succeeded": 3}}, []) == ("3/3 scenes", "", 1.0)


def test_without_a_terminal_a_line_comes_for_each_change_and_one_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [0.0]
    monkeypatch.setattr("deploy.progress.time.monotonic", lambda: seconds[0])
    with Display() as display:
        for at in (0, 59.9, 60, 119.9, 120):
            seconds[0] = at
            display.show("teaching", f"step {at:g}", at / 200)
        display.show("drawing", "1 of 9", 0.65)
    assert capsys.readouterr().err.splitlines() == [
        "  0%  teaching",
        " 30%  teaching  step 60",
        " 60%  teaching  step 120",
        " 65%  drawing",
    ]


def test_a_job_is_followed_by_what_has_changed_since_the_last_look() -> None:
    shown: list[str] = []
    with FakeService() as service:
        service.answer("GET", "/v1/jobs/job_a", a_job_body("queued"), headers={"ETag": '"1"'})
        service.answer("GET", "/v1/jobs/job_a", b"", status=304)
        service.answer("GET", "/v1/jobs/job_a", a_job_body("succeeded"))
        job = follow_job(
            Client(service.url), "job_a", lambda what, *_: shown.append(what), sleep=lambda _: None
        )
        tags = [one.headers.get("If-None-Match") for one in service.requests]
    assert job["status"] == "succeeded"
    assert shown == ["queued: next in turn", "succeeded"]
    assert tags == [None, '"1"', '"1"']


def test_a_quiet_batch_is_looked_at_ever_less_often_and_a_change_wakes_the_interest() -> None:
    pauses: list[float] = []
    quiet = {"status": "running", "counts": {"queued": 2}}
    moved = {"status": "running", "counts": {"queued": 1, "succeeded": 1}}
    done = {"status": "completed", "counts": {"succeeded": 2}}
    with FakeService() as service:
        service.answer("GET", "/v1/batches/bat_a", *[quiet] * 9, moved, done)
        service.answer("GET", "/v1/jobs", {"data": [], "next_cursor": None})
        follow_batch(Client(service.url), "bat_a", lambda *_: None, sleep=pauses.append)
    assert pauses[0] == pauses[-1] == 0.2
    assert pauses[1:9] == sorted(pauses[1:9])
    assert max(pauses) == 2.0
