"""Every row of the table of push answers, and the skin around it."""

import base64
import json
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from shared.errors import StoreUnavailable, Unauthenticated, WrongIdentity
from shared.identity import PushIdentity
from shared.jobs import Job, cancel
from shared.messages import Wake, encode_envelope, encode_wake
from shared.vocabulary import Status
from tests.builders import NOW, a_job, a_lease, job_id
from tests.fakes import FakePipeline, Gate
from tests.worker.conftest import TERMS, Surroundings
from tests.worker.test_run_job import Flaky
from worker.app import LARGEST_PUSH, Health, create_app
from worker.push import PushAnswer, answer_push


def a_push(job: str) -> bytes:
    return encode_envelope(
        *encode_wake(Wake(job=job)), message_id="1", published_at=NOW, subscription="s", attempt=1
    )


def pushed(around: Surroundings, body: bytes, **what_matters: object) -> PushAnswer:
    jobs = what_matters.pop("jobs", around.jobs)
    desk = what_matters.pop("desk", None) or around.desk(around.workplace(jobs=jobs))
    poisoned = what_matters.pop("poisoned", lambda: None)
    return answer_push(body, jobs=jobs, desk=desk, holder="w1", poisoned=poisoned)  # type: ignore[arg-type]


def test_a_push_for_a_due_job_draws_it(around: Surroundings) -> None:
    job = around.queued()
    assert pushed(around, a_push(job.id)) is PushAnswer.DONE
    assert around.jobs.get(job.id).status is Status.SUCCEEDED


def test_the_same_push_again_draws_nothing(around: Surroundings) -> None:
    job, pipeline = around.queued(), FakePipeline()
    desk = around.desk(around.workplace(pipeline=pipeline))
    for _ in range(3):
        assert pushed(around, a_push(job.id), desk=desk) is PushAnswer.DONE
    assert len(pipeline.drawn) == 1


BAD_WAKES = [
    b"{}",
    b'{"v":2,"job":"' + job_id(1).encode() + b'"}',
    b'{"v":1,"job":"../x"}',
    b"\xff",
]


@pytest.mark.parametrize("data", BAD_WAKES)
def test_a_message_that_we_do_not_read_is_acknowledged(around: Surroundings, data: bytes) -> None:
    message = {"data": base64.b64encode(data).decode(), "messageId": "1"}
    body = json.dumps({"message": message, "subscription": "s"}).encode()
    assert pushed(around, body) is PushAnswer.DONE


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b'{"message":{"data":"%%","messageId":"1"}}']
)
def test_an_unreadable_body_is_acknowledged_and_reported(
    around: Surroundings, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert pushed(around, body) is PushAnswer.DONE
    assert "poison" in caplog.messages


def test_a_push_for_an_unknown_job_is_acknowledged_and_counted(around: Surroundings) -> None:
    heard: list[str] = []
    push = a_push(job_id("nobody"))
    assert pushed(around, push, poisoned=lambda: heard.append("poison")) is PushAnswer.DONE
    assert heard == ["poison"]


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELED])
def test_a_push_for_an_ended_job_changes_nothing(around: Surroundings, status: Status) -> None:
    job = a_job(status=status)
    around.jobs.create([job])
    assert pushed(around, a_push(job.id)) is PushAnswer.DONE
    assert around.jobs.get(job.id) == job


def test_a_push_for_a_job_of_a_living_worker_changes_nothing(around: Surroundings) -> None:
    job = around.claimed("w2")
    assert pushed(around, a_push(job.id)) is PushAnswer.DONE
    assert around.jobs.get(job.id) == job


def test_a_push_for_a_job_that_is_not_due_leaves_it_queued(around: Surroundings) -> None:
    job = around.queued()
    later = around.jobs.update(job.id, lambda job, now: _put_off(job))
    assert pushed(around, a_push(job.id)) is PushAnswer.DONE
    assert around.jobs.get(job.id) == later


def _put_off(job: Job) -> Job:
    from dataclasses import replace

    return replace(job, not_before=job.not_before + timedelta(hours=1))


def test_a_push_for_the_job_on_this_desk_is_held_open_until_it_ends(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    gate, job = Gate(), around.queued()
    desk = around.desk(around.workplace(pipeline=FakePipeline(at_step=gate)))
    drawing = in_background(desk.draw_due)
    assert gate.reached.wait(10)
    answers: list[PushAnswer] = []
    again = in_background(lambda: answers.append(pushed(around, a_push(job.id), desk=desk)))
    again.join(0.3)
    assert not answers
    gate.opened.set()
    again.join(10)
    drawing.join(10)
    assert answers == [PushAnswer.DONE]


def test_a_push_that_cannot_reach_the_store_asks_to_be_sent_again(around: Surroundings) -> None:
    job = around.queued()
    away = Flaky(around.jobs, "get", StoreUnavailable("away"), range(1, 2))
    assert pushed(around, a_push(job.id), jobs=away) is PushAnswer.AGAIN


def test_a_canceled_job_stays_canceled_when_its_push_arrives(around: Surroundings) -> None:
    job = around.queued()
    around.jobs.update(job.id, lambda job, now: cancel(job, now, terms=TERMS))
    assert pushed(around, a_push(job.id)) is PushAnswer.DONE
    assert around.jobs.get(job.id).status is Status.CANCELED


# --- The HTTP skin ------------------------------------------------------------------------------


def a_skin(refusal: Exception | None = None, ill: str | None = None):  # type: ignore[no-untyped-def]
    bodies: list[bytes] = []

    def keys() -> dict[str, str]:
        if refusal:
            raise refusal
        return {}

    identity = PushIdentity(issuers=("i",), audience="a", email="e", keys=keys)
    app = create_app(
        identity=identity,
        health=Health(ill=lambda: ill, unready=lambda: ill),
        answer=lambda body: bodies.append(body) or 204,  # type: ignore[func-returns-value]
        registry=CollectorRegistry(),
    )
    return app.test_client(), bodies


@pytest.mark.parametrize(
    ("headers", "refusal", "status"),
    [
        ({}, None, 401),
        ({"Authorization": "Basic x"}, None, 401),
        ({"Authorization": "Bearer x"}, Unauthenticated("no"), 401),
        ({"Authorization": "Bearer x"}, WrongIdentity("no"), 403),
    ],
)
def test_a_push_that_is_not_trusted_touches_nothing(
    headers: dict[str, str], refusal: Exception | None, status: int
) -> None:
    client, bodies = a_skin(refusal)
    assert client.post("/push", data=b"x", headers=headers).status_code == status
    assert not bodies


def test_health_tells_why_not(around: Surroundings) -> None:
    well, _ = a_skin()
    ill, _ = a_skin(ill="hung")
    assert [well.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert [ill.get(path).status_code for path in ("/healthz", "/readyz")] == [503, 503]
    assert "hung" in ill.get("/healthz").text


def test_counters_are_told(around: Surroundings) -> None:
    client, _ = a_skin()
    client.post("/push")
    assert 'illo_pushes_total{status="401"} 1.0' in client.get("/metrics").text


def test_an_enormous_push_is_cut_and_so_found_unreadable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.app.verify", lambda authorization, identity, **also: None)
    client, bodies = a_skin()
    answer = client.post(
        "/push", data=b"x" * (LARGEST_PUSH + 1), headers={"Authorization": "Bearer x"}
    )
    assert answer.status_code == 204
    assert [len(body) for body in bodies] == [LARGEST_PUSH]


def test_a_lease_is_a_lease() -> None:
    assert a_lease("w1", 3).token == 3
