"""The OpenAPI description says what the app does, no more and no less."""

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from api.problems import CODES
from shared.vocabulary import Status
from tests.builders import WEIGHTS, a_reference, a_scene
from tests.http.conftest import House, a_picture, an_upload, claimed, drawn
from tests.http.test_queue import a_worker


@pytest.fixture
def description(client: FlaskClient) -> Any:
    return client.get("/openapi.json").json


def test_the_description_is_valid(description: Any) -> None:
    validate(description)
    assert description["openapi"].startswith("3.1")


def test_it_describes_every_route_and_nothing_else(house: House, description: Any) -> None:
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in house.client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {
        (path, method) for path, methods in description["paths"].items() for method in methods
    }
    assert described == served


def test_the_limits_of_a_query_are_described(description: Any) -> None:
    def limits(path: str, name: str) -> tuple[Any, Any]:
        parameters = description["paths"][path]["get"]["parameters"]
        [schema] = [one["schema"] for one in parameters if one["name"] == name]
        assert schema["type"] == "integer"
        return schema.get("minimum"), schema.get("maximum")

    assert limits("/v1/jobs", "limit") == (1, 200)
    assert limits("/v1/jobs/{id}", "wait") == (0, 60)
    assert limits("/v1/batches/{id}/contact-sheet.png", "page") == (1, 10_000)


def test_no_limit_is_described_in_words_that_json_schema_lacks(description: Any) -> None:
    lacking = {"ge", "le", "gt", "lt", "multiple_of", "min_length", "max_length", "regex"}

    def names(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(names, node))
        if isinstance(node, dict):
            return set(node).union(*map(names, node.values()))
        return set()

    assert not names(description) & lacking


def test_a_bodys_largest_size_is_described(description: Any) -> None:
    for path, size in (("/v1/batches", "133,169,152"), ("/v1/jobs", "1,000,000")):
        body = description["paths"][path]["post"]["requestBody"]
        assert body["description"] == f"At most {size} bytes."


def test_every_operation_has_a_name_of_its_own(description: Any) -> None:
    names = [
        operation["operationId"]
        for methods in description["paths"].values()
        for operation in methods.values()
    ]
    assert len(names) == len(set(names))


class Checked:
    """A client that holds every answer against the description."""

    def __init__(self, client: FlaskClient, description: Any) -> None:
        self.client, self.description = client, description
        self.seen: set[tuple[str, str, str]] = set()

    def __call__(self, method: str, path: str, template: str, **request: Any) -> Any:
        answer = self.client.open(path, method=method, **request)
        operation = self.description["paths"][template][method.lower()]
        status = str(answer.status_code)
        said = operation["responses"].get(status) or operation["responses"]["default"]
        contents = said.get("content", {})
        if not contents:
            assert answer.data == b""
        else:
            kind = answer.headers["Content-Type"].partition(";")[0]
            assert kind in contents or "image/*" in contents
            self._hold(answer, contents.get(kind, {}).get("schema"))
        self.seen.add((method, template, status))
        return answer

    def _hold(self, answer: Any, schema: Any) -> None:
        if schema is not None:
            root = schema | {"components": self.description["components"]}
            Draft202012Validator(root, format_checker=FormatChecker()).validate(answer.json)


def test_real_answers_are_as_described(house: House, description: Any) -> None:
    house = house.with_settings(price_per_gpu_second=0.01)
    call = Checked(house.client, description)
    asset = an_upload(house.client, a_picture()).json["id"]
    scene = {"prompt": "Mia", "references": [asset], "metadata": {"book": "1"}}
    id = call("POST", "/v1/jobs", "/v1/jobs", json=scene).json["id"]
    house.backends.workers.save(a_worker(seconds_per_megapixel_step=1.0, weights=WEIGHTS))
    one, under = "/v1/jobs/{id}", f"/v1/jobs/{id}"
    call("GET", under, one)
    failed = house.have(status=Status.FAILED, scene=a_scene(references=(a_reference(),)))
    batched = house.have(batch="bat_1", scene_key="p1", take=1)
    running = claimed(house, house.have().id)
    for job in (failed, batched, running):
        call("GET", f"/v1/jobs/{job.id}", one)
    call("POST", f"/v1/jobs/{failed.id}/retry", one + "/retry")
    drawn(house, id)
    etag = call("GET", under, one).headers["ETag"]
    call("GET", under, one, headers={"If-None-Match": etag})
    call("GET", under + "/images/0", one + "/images/{index}")
    call("GET", "/v1/jobs", "/v1/jobs")
    call("GET", "/v1/jobs?limit=0", "/v1/jobs")
    call("POST", f"{under}/retry", one + "/retry")
    call("POST", f"{under}/cancel", one + "/cancel")
    call("DELETE", f"/v1/jobs/{running.id}", one)
    call("DELETE", under, one)
    call("GET", under, one)
    call("GET", "/v1/assets", "/v1/assets")
    call("GET", f"/v1/assets/{asset}", "/v1/assets/{id}")
    call("GET", f"/v1/assets/{asset}/content", "/v1/assets/{id}/content")
    call("DELETE", f"/v1/assets/{asset}", "/v1/assets/{id}")
    call("POST", "/v1/queue/pause", "/v1/queue/pause", json={"reason": "lunch"})
    call("GET", "/v1/queue", "/v1/queue")
    call("POST", "/v1/queue/resume", "/v1/queue/resume")
    for path in ("/v1/workers", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        call("GET", path, path)
    call("GET", "/v1/models", "/v1/models")
    statuses = {status for *_, status in call.seen}
    assert statuses == {"200", "202", "204", "304", "400", "409", "410", "422"}


def test_the_described_body_accepts_what_the_app_accepts(description: Any) -> None:
    schema = description["components"]["schemas"]["JobRequest"] | {
        "components": description["components"]
    }
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"prompt": "Mia", "width": 1024, "height": 768})
    for wrong in ({}, {"prompt": ""}, {"prompt": "a\x00"}, {"prompt": "a", "colour": "red"}):
        assert not validator.is_valid(wrong)


def test_the_page_shows_every_operation_and_code_and_loads_nothing(
    client: FlaskClient, description: Any
) -> None:
    answer = client.get("/docs")
    page = answer.get_data(as_text=True)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<(script|img|link|iframe)|url\(|@import|src=", page)
    assert set(re.findall(r"href='([^'#]*)'", page)) == {"/openapi.json"}
    for path in description["paths"]:
        assert f"<code>{path}</code>" in page
    anchors = set(re.findall(r"id='(\w+)'", page))
    assert anchors >= CODES.keys()
    assert {link[1:] for link in re.findall(r"href='(#\w+)'", page)} <= anchors


def test_the_type_of_a_refusal_leads_to_its_place_on_the_page(client: FlaskClient) -> None:
    kind = client.get("/v1/nothing").json["type"]
    page, _, anchor = kind.partition("#")
    assert f"id='{anchor}'" in client.get(page).get_data(as_text=True)


def test_every_code_that_is_used_is_explained() -> None:
    sources = [file.read_text() for file in (Path(__file__).parents[2] / "api").glob("*.py")]
    used = {code for source in sources for code in re.findall(r'code="(\w+)"', source)}
    assert used <= CODES.keys()
    assert len(used) > 10
