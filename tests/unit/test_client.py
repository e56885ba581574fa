"""The client of the API: what it repeats, how long, and what it makes of answers."""

import pytest

from deploy.client import FRIEND_PATIENCE, STRANGER_PATIENCE, Client, is_healthy
from shared.errors import RequestRefused, ServiceUnreachable
from tests.fake_service import FakeService, problem

NOBODY = "http://127.0.0.1:9"


class Patience:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.passed = 0.0

    def client(self, url: str) -> Client:
        return Client(url, monotonic=lambda: self.passed, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def service() -> FakeService:
    with FakeService() as running:
        yield running


def test_a_lost_answer_is_asked_for_again_with_the_same_key(service: FakeService) -> None:
    service.answer("POST", "/v1/jobs", None, None, {"id": "job_a"})
    assert Patience().client(service.url).post("/v1/jobs", {"prompt": "x"}).json()["id"] == "job_a"
    asked = service.asked("POST", "/v1/jobs")
    assert len(asked) == 3
    assert len({(one.headers["Idempotency-Key"], one.body) for one in asked}) == 1


def test_two_wishes_have_two_keys(service: FakeService) -> None:
    service.answer("POST", "/v1/jobs", {})
    client = Client(service.url)
    client.post("/v1/jobs", {"prompt": "x"})
    client.post("/v1/jobs", {"prompt": "x"})
    keys = {one.headers["Idempotency-Key"] for one in service.asked("POST", "/v1/jobs")}
    assert len(keys) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_service_is_asked_again(service: FakeService, status: int) -> None:
    service.answer("GET", "/v1/queue", problem(status, "busy"), status=status)
    service.answer("GET", "/v1/queue", {"paused": False})
    assert Patience().client(service.url).get("/v1/queue").json() == {"paused": False}


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 422, 500])
def test_any_other_refusal_is_not_repeated(service: FakeService, status: int) -> None:
    service.answer("GET", "/v1/queue", problem(status, "no"), status=status)
    with pytest.raises((RequestRefused, ServiceUnreachable)):
        Patience().client(service.url).get("/v1/queue")
    assert len(service.requests) == 1


def test_a_full_quota_is_told_at_once(service: FakeService) -> None:
    service.answer("POST", "/v1/jobs", problem(429, "quota_exceeded"), status=429)
    with pytest.raises(RequestRefused, match="this is quota_exceeded"):
        Patience().client(service.url).post("/v1/jobs", {"prompt": "x"})
    assert len(service.requests) == 1


def test_the_service_says_how_long_to_wait(service: FakeService) -> None:
    headers = {"Retry-After": "4"}
    service.answer("GET", "/v1/queue", problem(429, "busy"), status=429, headers=headers)
    service.answer("GET", "/v1/queue", {})
    patience = Patience()
    patience.client(service.url).get("/v1/queue")
    assert patience.passed == 4


def test_a_stranger_that_is_silent_is_soon_given_up() -> None:
    patience = Patience()
    with pytest.raises(ServiceUnreachable, match=f"{NOBODY}: nobody listens there"):
        patience.client(NOBODY).get("/v1/queue")
    assert 0 < patience.passed <= STRANGER_PATIENCE


def test_a_service_that_has_answered_gets_the_time_to_restart(service: FakeService) -> None:
    service.answer("GET", "/v1/queue", {}, None)
    patience = Patience()
    client = patience.client(service.url)
    client.get("/v1/queue")
    with pytest.raises(ServiceUnreachable):
        client.get("/v1/queue")
    assert STRANGER_PATIENCE < patience.passed <= FRIEND_PATIENCE


def test_a_refusal_carries_status_code_and_faults(service: FakeService) -> None:
    body = problem(422, "invalid_request", {"/scenes/4/width": "should be a multiple of 16"})
    service.answer("POST", "/v1/batches", body, status=422)
    with pytest.raises(RequestRefused, match="/scenes/4/width: should be a multiple") as refused:
        Client(service.url).post("/v1/batches", {})
    assert (refused.value.status, refused.value.code) == (422, "invalid_request")


def test_a_refusal_that_is_no_problem_document_is_still_told(service: FakeService) -> None:
    service.answer("GET", "/v1/queue", b"<html>go away</html>", status=403)
    with pytest.raises(RequestRefused, match="403"):
        Client(service.url).get("/v1/queue")


def test_a_list_is_read_to_its_last_page(service: FakeService) -> None:
    service.answer(
        "GET", "/v1/jobs", {"data": [1, 2], "next_cursor": "c2"}, {"data": [3], "next_cursor": None}
    )
    assert list(Client(service.url).pages("/v1/jobs", {"status": "failed"})) == [1, 2, 3]
    queries = [one.query for one in service.asked("GET", "/v1/jobs")]
    assert queries == ["status=failed", "status=failed&cursor=c2"]


def test_only_an_api_that_answers_is_healthy(service: FakeService) -> None:
    assert not is_healthy(service.url)  # 404
    service.answer("GET", "/healthz", {"status": "ok"})
    assert is_healthy(service.url)
    assert not is_healthy(NOBODY)
