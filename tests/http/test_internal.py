"""Who may call for a sweep, and that forged tokens open neither it nor a worker's /push."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from api import routes_internal
from api.app import create_app
from api.sweep import SweepReport
from shared.embedded.push_keys import make_push_key, read_public_key
from shared.errors import StoreUnavailable
from shared.identity import PushIdentity
from shared.jobs import Job
from shared.messages import Wake, encode_envelope, encode_wake
from shared.vocabulary import Status
from tests.builders import NOW, TERMS, WEIGHTS
from tests.fakes import FakePipeline
from tests.http.conftest import Away, House, KeyedHouse, claimed
from tests.unit.test_identity import (
    AUDIENCE,
    EMAIL,
    ISSUER,
    KEY_ID,
    UNAUTHENTICATED,
    WRONG_IDENTITY,
    signed,
)
from worker.app import Health
from worker.app import create_app as create_worker
from worker.desk import Desk
from worker.heartbeat import Pace
from worker.push import answer_push
from worker.workplace import Workplace

pytestmark = pytest.mark.slow

SWEEP = "/internal/sweep"
FORGED = [(what, 401) for what in UNAUTHENTICATED] + [(what, 403) for what in WRONG_IDENTITY]
FORGE = UNAUTHENTICATED | WRONG_IDENTITY
NOTHING = {
    "ended": 0, "woken": 0, "expanded": 0, "cleaned": 0, "retired": 0, "uploads": 0,
    "unfinished": False, "held": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "push-key.pem"
    make_push_key(path)
    return path


@pytest.fixture
def google(key: Path) -> PushIdentity:
    public = read_public_key(key)
    keys = {KEY_ID: public}
    return PushIdentity(issuers=(ISSUER,), audience=AUDIENCE, email=EMAIL, keys=lambda: keys)


@pytest.fixture
def good(key: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(key.read_bytes())}"}


def swept(house: House, google: PushIdentity | None, headers: dict[str, str], **how: Any) -> Any:
    """What the API answers to a call for a sweep."""
    settings = house.settings.model_copy(update={"sweep_audience": AUDIENCE})
    app = create_app(house.backends, how.get("settings", settings), WEIGHTS, sweeper=google)
    return app.test_client().open(
        SWEEP, method=how.get("method", "POST"), headers=headers, data=how.get("data")
    )


def pushed(house: House, google: PushIdentity, headers: dict[str, str], job: Job) -> Any:
    """What a worker that would draw answers to a push."""
    workplace = Workplace(
        holder="w1",
        jobs=house.backends.jobs,
        artifacts=house.backends.artifacts,
        pipeline=FakePipeline(),
        terms=TERMS,
        pace=Pace(heartbeat=5.0, progress=0.05, step_timeout=20.0),
        stopping=threading.Event(),
        hung=lambda why: None,
        illo_version="0",
    )
    desk = Desk(workplace, held=lambda: None, changed=lambda job, rate: None, window=None)
    app = create_worker(
        identity=google,
        health=Health(ill=lambda: None, unready=lambda: None),
        answer=partial(
            answer_push, jobs=house.backends.jobs, desk=desk, holder="w1", poisoned=lambda: None
        ),
        registry=CollectorRegistry(),
    )
    data, attributes = encode_wake(Wake(job=job.id))
    body = encode_envelope(
        data, attributes, message_id="1", published_at=NOW, subscription="s", attempt=1
    )
    return app.test_client().post("/push", data=body, headers=headers)


@dataclass(frozen=True)
class Scenery:
    """Jobs that a sweep would wake and end, and all that can be seen of them."""

    house: House
    due: Job
    lost: Job

    def seen(self) -> object:
        jobs, publisher = self.house.backends.jobs, self.house.publisher
        return jobs.get(self.due.id), jobs.get(self.lost.id), list(publisher.wakes)


@pytest.fixture
def scenery(house: House) -> Scenery:
    due, lost = house.have(), house.have()
    lost = claimed(house, lost.id)
    house.clock.advance(house.settings.terms.max_runtime * 2)
    return Scenery(house, due, lost)


# --- forged tokens ------------------------------------------------------------------------------


def headers_of(what: str, key: Path) -> dict[str, str]:
    header = FORGE[what](key)
    return {} if header is None else {"Authorization": header}


@pytest.mark.parametrize(("what", "status"), FORGED)
def test_no_forged_token_sweeps(
    scenery: Scenery, google: PushIdentity, key: Path, what: str, status: int
) -> None:
    before = scenery.seen()
    answer = swept(scenery.house, google, headers_of(what, key))
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert answer.json["code"] == {401: "unauthenticated", 403: "wrong_identity"}[status]
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)
    assert scenery.seen() == before


@pytest.mark.parametrize(("what", "status"), FORGED)
def test_no_forged_token_wakes_a_worker(
    scenery: Scenery, google: PushIdentity, key: Path, what: str, status: int
) -> None:
    before = scenery.seen()
    answer = pushed(scenery.house, google, headers_of(what, key), scenery.due)
    assert answer.status_code == status
    assert scenery.seen() == before


def test_the_good_token_opens_both(
    scenery: Scenery, google: PushIdentity, good: dict[str, str]
) -> None:
    jobs = scenery.house.backends.jobs
    assert swept(scenery.house, google, good).status_code == 200
    assert jobs.get(scenery.lost.id).status is Status.FAILED
    assert pushed(scenery.house, google, good, scenery.due).status_code == 204
    assert jobs.get(scenery.due.id).status is Status.SUCCEEDED


@pytest.mark.parametrize("end", ["/push", SWEEP])
def test_where_there_are_no_certificates_the_caller_is_to_come_again(
    scenery: Scenery, google: PushIdentity, good: dict[str, str], end: str
) -> None:
    def away() -> dict[str, str]:
        raise StoreUnavailable("no certificates")

    blind, before = replace(google, keys=away), scenery.seen()
    if end == SWEEP:
        answer = swept(scenery.house, blind, good)
        assert answer.json["code"] == "store_unavailable"
    else:
        answer = pushed(scenery.house, blind, good, scenery.due)
    assert answer.status_code == 503
    assert scenery.seen() == before


# --- the sweep ----------------------------------------------------------------------------------


def test_a_sweep_tells_what_it_did(
    scenery: Scenery, google: PushIdentity, good: dict[str, str]
) -> None:
    answer = swept(scenery.house, google, good)
    assert answer.json == NOTHING | {"ended": 1, "woken": 1}
    assert [wake.job for wake in scenery.house.publisher.wakes] == [scenery.due.id]
    assert swept(scenery.house, google, good).json == NOTHING


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 1000])
def test_the_body_of_the_call_does_not_matter(
    house: House, google: PushIdentity, good: dict[str, str], data: bytes
) -> None:
    assert swept(house, google, good, data=data).json == NOTHING


def test_it_is_there_only_where_the_settings_tell_of_a_scheduler(
    house: House, google: PushIdentity, good: dict[str, str]
) -> None:
    assert swept(house, google, good, settings=house.settings).status_code == 404
    assert swept(house, None, good).status_code == 404
    assert swept(house, google, good, method="GET").status_code == 405


def test_it_is_not_described(house: House, google: PushIdentity) -> None:
    settings = house.settings.model_copy(update={"sweep_audience": AUDIENCE})
    app = create_app(house.backends, settings, WEIGHTS, sweeper=google)
    described = app.test_client().get("/openapi.json").text
    assert "/v1/jobs" in described
    assert SWEEP not in described
    assert "SweepBody" not in described


def test_a_key_opens_no_sweep_and_an_identity_token_nothing_else(
    keyed: KeyedHouse, google: PushIdentity, good: dict[str, str]
) -> None:
    for api_key in keyed.keys.values():
        answer = swept(keyed, google, {"Authorization": f"Bearer {api_key}"})
        assert answer.status_code == 401
    assert swept(keyed, google, good).status_code == 200
    assert keyed.client.get("/v1/jobs", headers=good).status_code == 401


def test_a_sweep_without_its_store_is_to_be_called_again(
    house: House, google: PushIdentity, good: dict[str, str]
) -> None:
    away: Any = Away()
    houseless = replace(house, backends=replace(house.backends, workers=away, jobs=away))
    answer = swept(houseless, google, good)
    assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")
    assert answer.headers["Retry-After"]


def reports(*what: SweepReport) -> Callable[..., SweepReport]:
    left: Iterator[SweepReport] = iter(what)
    return lambda backends, settings: next(left)


def test_a_sweep_goes_on_while_there_is_something_to_go_on_with(
    house: House, google: PushIdentity, good: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = reports(
        SweepReport(expanded=200, woken=2, cleaned=1, unfinished=True),
        SweepReport(expanded=200, retired=4, uploads=5, unfinished=True),
        SweepReport(expanded=7, ended=3, held="paused"),
        SweepReport(expanded=1000),
    )
    monkeypatch.setattr(routes_internal, "sweep_once", pages)
    assert swept(house, google, good).json == {
        "ended": 3, "woken": 2, "expanded": 407, "cleaned": 1, "retired": 4, "uploads": 5,
        "unfinished": False, "held": "paused",
    }  # fmt: skip


def test_a_sweep_ends_with_its_time_and_says_that_there_is_more(
    house: House, google: PushIdentity, good: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = SweepReport(expanded=200, unfinished=True)
    monkeypatch.setattr(routes_internal, "sweep_once", reports(more, more))
    monkeypatch.setattr(routes_internal, "LONGEST", 0.0)
    assert swept(house, google, good).json == NOTHING | {"expanded": 200, "unfinished": True}


def test_the_table_of_forgeries_has_all_that_are_known() -> None:
    known = {
        "no header", "garbage", "expired", "another audience", "another issuer", "another sender",
        "a sender that nobody verified", "alg none", "HS256 with the public key as secret",
        "another key under our id", "unknown key id",
    }  # fmt: skip
    assert known <= FORGE.keys()
