"""Every route against every kind of key; the routes are those that the app has: all of them."""

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.routing import Route
from shared.identity import PushIdentity
from shared.keys import Scope
from tests.builders import WEIGHTS, job_id
from tests.http.conftest import KeyedHouse, a_keyed_house, a_picture, an_upload, drawn, with_key
from tests.http.stories import newest_job, submit

OPEN = {"readHealth", "readReadiness", "readDescription", "readDocs"}
OF_GOOGLE = {"sweep"}  # an identity token opens it, and no key
FOR_OPERATORS = {"pauseQueue", "resumeQueue", "readMetrics"}

BAD_KEYS = ["unknown", "wrong", "revoked", "expired"]
BAD_HEADERS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer sk-something-else",
    "Basic YWRhOnNlY3JldA==",
    "Bearer illo_aaaaaaaa_" + "a" * 5000,
    "Bearer illo_ääääääää_" + "ß" * 32,
]

BODIES: dict[str, Any] = {  # of routes that want more than {}
    "createJob": {"prompt": "Mia", "width": 64, "height": 64},
    "createBatch": {"scenes": [{"key": "p1", "prompt": "Mia"}]},
    "editScene": {"prompt": "Mia wakes up"},
    "reprocessBatch": {"select": {"all": True}, "force": True},
}
MISSING = {
    "jobs": job_id("missing"),
    "batches": "bat_" + "a" * 26,
    "assets": "ast_" + "0" * 64,
    "models": "none",
}
PARTS = {"index": "0", "key": "p1", "take": "1"}


@dataclass(frozen=True, kw_only=True)
class World:
    """A house where ada has a drawn job, a drawn batch and an asset, and what stores are asked."""

    house: KeyedHouse
    ids: dict[str, str]
    client: Callable[[], FlaskClient]
    asked: list[str]

    def caller(self, name: str) -> FlaskClient:
        return with_key(self.client(), self.house.keys[name])


class Counted:
    """A store that writes down what it is asked."""

    def __init__(self, name: str, store: object, asked: list[str]) -> None:
        self._name, self._store, self._asked = name, store, asked

    def __getattr__(self, name: str) -> Any:
        self._asked.append(f"{self._name}.{name}")
        return getattr(self._store, name)


class Untouchable:
    """A body that must not be read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the body was wanted before the key was known: {name}")


def a_world(folder: Path) -> World:
    house = a_keyed_house(folder)
    house = replace(house, settings=house.settings.model_copy(update={"sweep_audience": "sweep"}))
    ada = house.caller("ada")
    asset = an_upload(ada, a_picture()).json["id"]
    job = drawn(house, house.have(tenant="ada").id)
    batch = submit(ada, "p1").json["id"]
    drawn(house, newest_job(ada, f"/v1/batches/{batch}", "p1"))
    asked: list[str] = []
    names = ("jobs", "batches", "assets", "workers", "artifacts", "publisher")
    counted: Any = {n: Counted(n, getattr(house.backends, n), asked) for n in names}
    nobody = PushIdentity(issuers=("i",), audience="sweep", email="e", keys=dict)
    app = create_app(replace(house.backends, **counted), house.settings, WEIGHTS, sweeper=nobody)
    ids = {"jobs": job.id, "batches": batch, "assets": asset, "models": "flux"}
    return World(house=house, ids=ids, client=app.test_client, asked=asked)


def routes_of(world: World) -> list[Route]:
    app = world.client().application
    return [
        view.args[0] if isinstance(view, partial) else pytest.fail(f"{name} declares no route")
        for name, view in app.view_functions.items()
    ]


def declared() -> list[Route]:
    with tempfile.TemporaryDirectory() as folder:
        return routes_of(a_world(Path(folder)))


ROUTES = declared()
KEYED = [route for route in ROUTES if route.name not in OPEN | OF_GOOGLE]
OF_ONE = [route for route in KEYED if "{id}" in route.path]


def by_name(routes: list[Route]) -> Any:
    return pytest.mark.parametrize("route", routes, ids=lambda route: route.name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """For requests that change nothing of ada's."""
    return a_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def own_world(tmp_path: Path) -> World:
    return a_world(tmp_path)


def address(route: Route, ids: dict[str, str]) -> str:
    kind = route.path.split("/")[2] if "{id}" in route.path else ""
    return route.path.format(id=ids.get(kind), **PARTS)


def ask(client: FlaskClient, route: Route, ids: dict[str, str], **given: Any) -> Any:
    if route.upload:
        given.setdefault("data", {"file": (io.BytesIO(a_picture(colour="gold")), "a.png")})
    elif route.method in ("POST", "PUT"):
        given.setdefault("json", BODIES.get(route.name, {}))
    return client.open(address(route, ids), method=route.method, **given)


def ask_unread(client: FlaskClient, route: Route, ids: dict[str, str], **given: Any) -> Any:
    """Ask with a body that must stay unread."""
    body = {
        "wsgi.input": Untouchable(),
        "CONTENT_LENGTH": "9" * 12,  # more than any route takes: that would be told next
        "CONTENT_TYPE": "application/json",
    }
    path = address(route, ids)
    return client.open(path, method=route.method, environ_overrides=body, **given)


def told(answer: Any) -> dict[str, Any]:
    """What a refusal says, whichever request it answers."""
    body = dict(json.loads(answer.data))
    return {name: said for name, said in body.items() if name not in ("request_id", "instance")}


def test_every_path_belongs_to_a_declared_route(world: World) -> None:
    rules = world.client().application.url_map.iter_rules()
    assert {rule.endpoint for rule in rules} == {route.name for route in ROUTES}


def test_only_these_are_open_and_only_these_are_for_operators() -> None:
    assert {route.name for route in ROUTES if route.needs is None} == OPEN | OF_GOOGLE
    operators = {route.name for route in ROUTES if route.needs is Scope.ADMIN}
    assert operators == FOR_OPERATORS


@by_name([route for route in KEYED if route.name not in FOR_OPERATORS])
def test_reading_and_writing_are_told_apart_by_the_method(route: Route) -> None:
    assert route.needs is (Scope.READ if route.method == "GET" else Scope.WRITE)


@by_name([route for route in ROUTES if route.name in OPEN])
def test_an_open_route_answers_whatever_the_key(route: Route, world: World) -> None:
    for client in (world.client(), *map(world.caller, [*BAD_KEYS, "ada's reader", "bob"])):
        assert ask(client, route, {}).status_code == 200


@by_name([route for route in ROUTES if route.name in OF_GOOGLE])
def test_no_key_opens_what_is_googles(route: Route, world: World) -> None:
    for client in (world.client(), *map(world.caller, world.house.keys)):
        assert ask(client, route, {}).status_code == 401


@by_name(KEYED)
def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(route: Route, world: World) -> None:
    first = told(ask(world.client(), route, world.ids))
    assert first["code"] == "unauthenticated"
    headers: Any = [{"Authorization": value} for value in BAD_HEADERS if value is not None]
    keys = [{"Authorization": f"Bearer {world.house.keys[name]}"} for name in BAD_KEYS]
    for sent in ({}, *headers, *keys):
        for ids in (world.ids, MISSING):
            world.asked.clear()
            answer = ask_unread(world.client(), route, ids, headers=sent)
            assert (answer.status_code, told(answer)) == (401, first)
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="illo"'
            assert world.asked == []


@by_name([route for route in KEYED if route.method == "GET"])
def test_head_needs_the_key_that_get_needs(route: Route, world: World) -> None:
    assert world.client().head(address(route, world.ids)).status_code == 401


@by_name(KEYED)
def test_a_key_that_may_read_does_nothing_else(route: Route, world: World) -> None:
    reader = world.caller("ada's reader")
    if route.needs is Scope.READ:
        assert ask(reader, route, world.ids).status_code in (200, 400)
        return
    for ids in (world.ids, MISSING):
        world.asked.clear()
        answer = ask_unread(reader, route, ids)
        assert (answer.status_code, answer.json["code"]) == (403, "insufficient_scope")
        assert f"the scope {route.needs};" in answer.json["detail"]
        assert f'scope="{route.needs}"' in answer.headers["WWW-Authenticate"]
        assert world.asked == []


@by_name(OF_ONE)
def test_another_tenants_id_is_answered_like_one_that_there_is_not(
    route: Route, world: World
) -> None:
    seen = []
    for ids in (world.ids, MISSING):
        for headers in ({}, {"Idempotency-Key": f"{route.name} {ids['jobs']}"}):
            world.asked.clear()
            answer = ask(world.caller("bob"), route, ids, headers=headers)
            assert answer.status_code == (400 if route.tag == "later" else 404)
            kind = route.path.split("/")[2]
            body = answer.get_data(as_text=True).replace(ids[kind], "ID")
            said = {n: v for n, v in json.loads(body).items() if n != "request_id"}
            seen.append((said, list(world.asked)))
    assert seen[0] == seen[2]
    assert seen[1] == seen[3]
    # it is the same work only if there is some: an id that is looked at without the store would do
    assert seen[0][1] or route.tag == "later"


@by_name([route for route in KEYED if "{id}" not in route.path])
def test_what_names_no_id_shows_another_tenant_nothing(route: Route, world: World) -> None:
    answer = ask(world.caller("bob"), route, {})
    assert answer.status_code < 300 or route.tag == "later"
    shown = answer.get_data(as_text=True)
    assert not [id for kind, id in world.ids.items() if kind != "models" and id in shown]


@by_name(KEYED)
def test_the_owners_key_does_it(route: Route, own_world: World) -> None:
    """Or else all of the above would hold for a service that refuses everything."""
    answer = ask(own_world.caller("ada"), route, own_world.ids)
    expected = (400,) if route.tag == "later" else (200, 201, 202, 204)
    assert answer.status_code in expected, answer.data


@pytest.fixture(autouse=True)
def _untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is refused, ada's things stay as they are."""
    yield
    if "world" not in request.fixturenames:
        return
    world = request.getfixturevalue("world")
    backends, ids = world.house.backends, world.ids
    assert backends.jobs.get(ids["jobs"]).deleted_at is None
    assert not backends.batches.get(ids["batches"]).canceled
    assert backends.batches.scene(ids["batches"], "p1").last_take == 1
    assert backends.assets.get("ada", ids["assets"]) is not None
