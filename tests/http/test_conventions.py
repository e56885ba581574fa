"""What all requests and answers have in common."""

import re

import pytest
from flask.testing import FlaskClient

from shared.cursors import encode_cursor
from shared.documents import to_json
from shared.ports import JobFilter
from tests.http.conftest import House, pointers

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "metadata": {"k": "1", "k": "2"}}',
        b'{"prompt": "a", "guidance": NaN}',
        b'{"prompt": "a", "guidance": -Infinity}',
        b'{"prompt": "\xff"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"\\ud800": 1}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 33 + b"1" + b"}" * 33,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_proper_json_is_refused_as_malformed(
    client: FlaskClient, body: bytes
) -> None:
    answer = client.post("/v1/jobs", data=body, headers=JSON)
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_json")


def test_a_body_as_deep_as_the_limit_is_judged_by_what_it_says(client: FlaskClient) -> None:
    deep = b'{"a":' * 31 + b"1" + b"}" * 31
    assert client.post("/v1/jobs", data=deep, headers=JSON).status_code == 422


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_of_another_type_is_refused(client: FlaskClient, kind: str) -> None:
    answer = client.post("/v1/jobs", data=b'{"prompt": "a"}', headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_a_body_may_say_its_character_set(client: FlaskClient) -> None:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert client.post("/v1/jobs", data=b'{"prompt": "a"}', headers=kind).status_code == 202


def test_a_body_at_the_limit_is_read_and_one_beyond_it_is_not(client: FlaskClient) -> None:
    def padded(size: int) -> bytes:
        return b'{"prompt": "a"}'.ljust(size)

    assert client.post("/v1/jobs", data=padded(1_000_000), headers=JSON).status_code == 202
    answer = client.post("/v1/jobs", data=padded(1_000_001), headers=JSON)
    assert (answer.status_code, answer.json["code"]) == (413, "too_large")
    assert "at most 1,000,000 bytes" in answer.json["detail"]


def test_a_flood_of_names_and_values_is_refused_before_it_is_read(client: FlaskClient) -> None:
    def post(body: bytes) -> tuple[int, str]:
        answer = client.post("/v1/jobs", data=body, headers=JSON)
        assert len(answer.data) < 50_000
        return answer.status_code, answer.json["code"]

    def names(count: int) -> bytes:
        return b'{"prompt": "a"' + b"".join(b',"n%d":1' % i for i in range(1, count)) + b"}"

    assert post(names(256)) == (422, "invalid_request")
    assert post(names(257)) == (400, "malformed_json")
    assert post(b'{"' + b"n" * 256 + b'": 1}') == (422, "invalid_request")
    assert post(b'{"' + b"n" * 257 + b'": 1}') == (400, "malformed_json")
    assert post(b'{"references": [' + b"1," * 990 + b"1]}") == (422, "invalid_request")
    assert post(b'{"references": [' + b"1," * 1000 + b"1]}") == (400, "malformed_json")


def test_an_answer_lists_a_hundred_faults_and_counts_the_rest(client: FlaskClient) -> None:
    def faults(count: int) -> list[dict[str, str]]:
        body = {"prompt": "a"} | {f"n{i}": 1 for i in range(count)}
        listed: list[dict[str, str]] = client.post("/v1/jobs", json=body).json["errors"]
        return listed

    assert len(faults(100)) == 100
    assert faults(101)[100] == {"pointer": "", "detail": "and 1 more fault, not listed"}
    assert faults(250)[100]["detail"] == "and 150 more faults, not listed"
    assert len(faults(250)) == 101


def test_a_callers_word_is_repeated_only_in_part(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "a", "m" * 65: 1, "n" * 64: 1})
    told = [fault["detail"] for fault in answer.json["errors"]]
    assert told == [f"there is no field '{'m' * 64}…'", f"there is no field '{'n' * 64}'"]


@pytest.mark.parametrize("query", ["&".join(f"n{i}" for i in range(257)), "n" * 257 + "=1"])
def test_a_flood_in_a_query_is_one_fault(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, pointers(answer)) == (422, [""])


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity", "x" * 500])
def test_an_encoded_body_is_refused_by_its_encoding(client: FlaskClient, encoding: str) -> None:
    for path in ("/v1/jobs", "/v1/batches", "/v1/assets"):
        answer = client.post(path, data=b"{}", headers=JSON | {"Content-Encoding": encoding})
        assert (answer.status_code, answer.json["code"]) == (415, "unsupported_media_type")
        assert encoding[:64] in answer.json["detail"]
        assert len(answer.json["detail"]) < 150
        assert answer.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_a_body_that_is_not_encoded_may_say_so(client: FlaskClient, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    assert client.post("/v1/jobs", json={"prompt": "a"}, headers=headers).status_code == 202


@pytest.mark.parametrize("uri", ["//v1/jobs", "///v1/jobs?limit=1", "http://localhost//v1/jobs"])
def test_a_path_that_the_server_folds_is_no_path_of_ours(client: FlaskClient, uri: str) -> None:
    # as waitress hands it on: two slashes are one in PATH_INFO
    answer = client.get("/v1/jobs", environ_overrides={"REQUEST_URI": uri})
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "uri", ["/v1/jobs", "/v1/jobs?status=queued&batch=//", "http://[::1]/v1/jobs"]
)
def test_slashes_elsewhere_are_no_fault(client: FlaskClient, uri: str) -> None:
    assert client.get("/v1/jobs", environ_overrides={"REQUEST_URI": uri}).status_code == 200


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null", b"true"])
def test_a_body_that_is_no_object_is_refused_at_its_root(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/v1/jobs", data=body, headers=JSON)
    assert answer.status_code == 422
    assert pointers(answer) == [""]


def test_every_fault_is_named_by_its_pointer(client: FlaskClient) -> None:
    wrong = {"width": "28", "steps": True, "seed": 1.0, "metadata": {"a/b~c": 1}, "colour": "red"}
    answer = client.post("/v1/jobs", json=wrong)
    assert answer.status_code == 422
    assert sorted(pointers(answer)) == [
        "/colour",
        "/metadata/a~1b~0c",
        "/prompt",
        "/seed",
        "/steps",
        "/width",
    ]


def test_a_refusal_serves_problem_readers_and_the_openai_sdk(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "a", "steps": 0})
    problem = answer.json
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem.keys() == {
        "type", "title", "status", "detail", "instance", "code", "errors", "request_id", "error",
    }  # fmt: skip
    assert (problem["status"], problem["code"]) == (422, "invalid_request")
    assert problem["instance"] == "/v1/jobs"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["error"]["param"] == "steps"
    assert problem["error"]["type"] == "invalid_request_error"
    assert problem["error"]["code"] == "invalid_request"
    assert "steps" in problem["error"]["message"]


def test_a_refusal_does_not_repeat_the_prompt(client: FlaskClient) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "a secret\x00", "steps": "secret"})
    assert answer.status_code == 422
    assert b"secret" not in answer.data


def test_a_path_that_there_is_not_is_a_problem_too(client: FlaskClient) -> None:
    answer = client.get("/v1/nothing")
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/v1/queue", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/v1/queue/pause", {"POST", "OPTIONS"}),
        ("PATCH", f"/v1/jobs/job_{'a' * 26}", {"GET", "HEAD", "OPTIONS", "DELETE"}),
    ],
)
def test_another_method_is_told_which_ones_there_are(
    client: FlaskClient, method: str, path: str, allowed: set[str]
) -> None:
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed
    options = client.options(path)
    assert (options.status_code, options.data) == (200, b"")
    assert set(options.headers["Allow"].split(", ")) == allowed


def test_head_answers_like_get_without_a_body(client: FlaskClient) -> None:
    get, head = client.get("/v1/jobs"), client.head("/v1/jobs")
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.parametrize("given", ["a", "x" * 128, "b9.c-d_e/f:g+h=", "550e8400-e29b"])
def test_a_proper_request_id_is_given_back(client: FlaskClient, given: str) -> None:
    for path in ("/healthz", "/v1/nothing"):
        answer = client.get(path, headers={"X-Request-Id": given})
        assert answer.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ü", '"', "<script>"])
def test_a_request_id_that_is_not_safe_is_replaced(client: FlaskClient, given: str) -> None:
    answer = client.get("/healthz", headers={"X-Request-Id": given})
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["X-Request-Id"])


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_trace_context_travels_with_the_wake(house: House) -> None:
    house.client.post("/v1/jobs", json={"prompt": "a"}, headers={"traceparent": TRACE})
    assert house.publisher.wakes[0].traceparent == TRACE


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        TRACE.upper(),
        TRACE.replace("00-", "ff-", 1),
        TRACE[:-1],
        TRACE + "-x",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_a_trace_context_that_is_none_is_replaced(house: House, given: str | None) -> None:
    headers = {} if given is None else {"traceparent": given}
    house.client.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
    made = house.publisher.wakes[0].traceparent
    assert made is not None
    assert made != given
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", made)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:8080"]
)
def test_a_request_for_this_machine_is_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "localhost:80:80",
        "localhost.",
        "[::2]",
        "0.0.0.0",
        "localhost@evil.example",
    ],
)
def test_a_request_for_a_foreign_host_is_refused(client: FlaskClient, host: str) -> None:
    for path in ("/healthz", "/v1/jobs", "/v1/nothing"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.json["code"]) == (403, "foreign_host")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 202),
        ("http://127.0.0.1", 202),
        ("https://[::1]:8443", 202),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
        ("ftp://localhost", 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(house: House, origin: str, status: int) -> None:
    answer = house.client.post("/v1/jobs", json={"prompt": "a"}, headers={"Origin": origin})
    assert answer.status_code == status
    assert len(house.publisher.wakes) == (status == 202)
    assert house.client.get("/v1/jobs", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/jobs/job_{'a' * 26}/events"),
        ("GET", "/v1/batches/bat_1/archive.zip"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/images/edits"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/flux"),
        ("POST", "/internal/events"),
    ],
)
def test_a_feature_to_come_is_refused(client: FlaskClient, method: str, path: str) -> None:
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.json["code"]) == (400, "not_available")


def test_a_field_to_come_is_refused_and_nothing_is_done(house: House) -> None:
    wanted = {"prompt": "a", "webhook": {"url": "https://example.org/told"}}
    answer = house.client.post("/v1/jobs", json=wanted)
    assert (answer.status_code, answer.json["code"]) == (400, "not_available")
    assert pointers(answer) == ["/webhook"]
    assert house.client.get("/v1/jobs").json["data"] == []


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("colour=red", ["/colour"]),
        ("limit=0", ["/limit"]),
        ("limit=201", ["/limit"]),
        ("limit=1.0", ["/limit"]),
        ("limit=%2B1", ["/limit"]),
        ("limit=", ["/limit"]),
        ("limit=١", ["/limit"]),
        ("limit=" + "9" * 5000, ["/limit"]),
        ("limit=1&limit=2", ["/limit"]),
        ("status=done", ["/status"]),
        ("metadata=a", ["/metadata"]),
        ("metadata[a]=1&metadata[b]=2", ["/metadata"]),
        ("metadata[a]=1&metadata=2", ["/metadata"]),
        ("metadata[]=1", ["/metadata/"]),
        ("created_after=yesterday", ["/created_after"]),
        ("created_after=0", ["/created_after"]),
        ("created_after=2026-01-01", ["/created_after"]),
        ("created_after=2026-01-01T00:00:00", ["/created_after"]),
        ("created_after=0001-01-01T00:00:00%2B23:59", ["/created_after"]),
        ("cursor=nonsense", ["/cursor"]),
        ("cursor=%00", ["/cursor"]),
        ("limit=0&status=done", ["/limit", "/status"]),
    ],
)
def test_a_query_that_means_nothing_is_refused_by_name(
    client: FlaskClient, query: str, wrong: list[str]
) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert pointers(answer) == wrong


@pytest.mark.parametrize("id", ["\ud83d", "job_\ud83d", "x", "job_\0"])
@pytest.mark.parametrize(
    ("path", "of"),
    [
        ("/v1/assets", "assets local"),
        ("/v1/jobs", f"jobs {to_json(JobFilter(tenant='local'))}"),
    ],
)
def test_a_made_up_cursor_with_an_impossible_id_is_refused(
    client: FlaskClient, path: str, of: str, id: str
) -> None:
    possible = client.get(path, query_string={"cursor": encode_cursor(1, "job_a", of=of)})
    assert possible.status_code == 200, "the cursor is of this list"
    answer = client.get(path, query_string={"cursor": encode_cursor(1, id, of=of)})
    assert (answer.status_code, pointers(answer)) == (422, ["/cursor"])


@pytest.mark.parametrize("path", ["/v1/queue", "/v1/workers", "/healthz", "/v1/assets/ast_1"])
def test_a_path_without_parameters_refuses_all(client: FlaskClient, path: str) -> None:
    answer = client.get(f"{path}?verbose=1")
    assert (answer.status_code, pointers(answer)) == (422, ["/verbose"])


def test_answers_are_not_for_shared_caches_and_not_to_be_guessed_at(client: FlaskClient) -> None:
    answer = client.get("/v1/jobs")
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
