"""Whatever is sent, the answer is never a 5xx, and always JSON of ours."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.conftest import a_house

FIELDS = [
    "prompt", "references", "width", "height", "steps", "guidance", "seed", "count", "format",
    "priority", "metadata", "webhook", "reason", "limit", "wait", "cursor", "status", "batch",
    "created_after", "metadata[a]", "metadata[]", "file",
]  # fmt: skip
PATHS = [
    "/v1/jobs", "/v1/assets", "/v1/queue", "/v1/workers", "/v1/queue/resume", "/healthz",
    "/v1/jobs/{}", "/v1/jobs/{}/cancel", "/v1/jobs/{}/retry", "/v1/jobs/{}/images/{}",
    "/v1/assets/{}", "/v1/assets/{}/content", "/v1/jobs/{}/events", "/metrics", "/docs", "/{}",
    "/v1/batches", "/v1/batches/{}", "/v1/batches/{}/scenes", "/v1/batches/{}/scenes/{}",
    "/v1/batches/{}/cancel", "/v1/batches/{}/results.jsonl", "/v1/batches/{}/contact-sheet.png",
]  # fmt: skip

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**17, max_value=10**320)
    | st.floats()
    | st.text(alphabet=st.characters())
    | st.text(alphabet=st.characters(categories=["Cs", "Cc", "Lu"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=8,
)
plausible = st.fixed_dictionaries(
    {"prompt": st.just("Mia") | anything},
    optional=dict.fromkeys(FIELDS[1:11], anything),
)
words = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
header_text = st.text(
    alphabet=st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60
)
headers = st.dictionaries(
    st.sampled_from(
        ["Idempotency-Key", "X-Request-Id", "traceparent", "Prefer", "If-None-Match", "Accept",
         "Content-Type", "Range", "Authorization", "Origin", "Host", "Expect"]
    ),
    header_text | st.sampled_from(["wait=1e9", "W/", '"', "*", "application/json", "a" * 300]),
    max_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with a_house(folder).client as client:
        yield client


def judge(answer: Any) -> None:
    assert answer.status_code < 500
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        problem = json.loads(answer.data)
        assert problem["status"] == answer.status_code
        assert answer.headers["Content-Type"] == "application/problem+json"


relaxed = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@relaxed
@given(body=plausible | anything)
def test_no_json_brings_the_app_down(fuzzed: FlaskClient, body: object) -> None:
    kind = {"Content-Type": "application/json"}
    judge(fuzzed.post("/v1/jobs", data=json.dumps(body), headers=kind))
    batch = {"scenes": [body], "defaults": body}
    judge(fuzzed.post("/v1/batches", data=json.dumps(batch), headers=kind))


@relaxed
@given(
    body=st.binary(max_size=200),
    path=st.sampled_from(
        ["/v1/jobs", "/v1/assets", "/v1/batches", "/v1/queue/pause", "/v1/images/edits"]
    ),
    kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "x"]),
)
def test_no_bytes_bring_the_app_down(
    fuzzed: FlaskClient, body: bytes, path: str, kind: str
) -> None:
    judge(fuzzed.post(path, data=body, headers={"Content-Type": kind}))


@relaxed
@given(headers=headers, body=st.sampled_from([b'{"prompt": "a"}', b"", b"{}"]))
def test_no_header_brings_the_app_down(
    fuzzed: FlaskClient, headers: dict[str, str], body: bytes
) -> None:
    judge(fuzzed.post("/v1/jobs", data=body, headers=headers))
    judge(fuzzed.get("/v1/jobs", headers=headers))


@relaxed
@given(
    template=st.sampled_from(PATHS),
    parts=st.tuples(words, words),
    query=st.dictionaries(st.sampled_from(FIELDS) | words, words, max_size=3),
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "BREW"]),
)
def test_no_path_or_query_brings_the_app_down(
    fuzzed: FlaskClient,
    template: str,
    parts: tuple[str, str],
    query: dict[str, str],
    method: str,
) -> None:
    query.pop("wait", None)  # a poll that waits would only be slow
    path = template.format(*(quote(part, safe="%") for part in parts))
    judge(fuzzed.open(path, method=method, query_string=query))
