"""How a route is declared, and what every request goes through before its route acts.

A group of routes is a function `job_routes(service) -> list[Route]`; create_app puts them into
Flask, and the OpenAPI description is made from the same list.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flask import Flask, Request, Response, g, request
from pydantic import BaseModel
from werkzeug.datastructures import Headers

from api.batch_faults import quoted
from api.correlation import Correlation
from api.idempotency import Once, once_of
from api.problems import Fault, Refusal, invalid, not_available, pointer
from api.requests import Empty, Strict, parse, query_document
from api.strict_json import LONGEST_NAME, read_json
from api.tenants import Admit, Caller
from shared.keys import Scope
from shared.ports import Answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

JSON = "application/json"
LARGEST_BODY = 1_000_000
_FOLDED = re.compile(r"(?:\w+://[^/]*)?//")

Body = TypeVar("Body")
Query = TypeVar("Query")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Body, Query]):
    """A request that was found well-formed: what a route acts on."""

    caller: Caller
    body: Body
    document: object  # the body before defaults were filled in; an upload's bytes
    query: Query
    path: str
    arguments: Mapping[str, list[str]]  # the query as it came
    headers: Headers
    remote: str | None
    correlation: Correlation
    once: Once | None

    @property
    def tenant(self) -> str:
        """Whose jobs, batches and assets it is about."""
        return self.caller.tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path. `answers` are models, or content types of bytes, by status."""

    method: str
    path: str  # as OpenAPI writes it: /v1/jobs/{id}
    view: Callable[..., Answer]  # view(call, **parts of the path)
    name: str  # OpenAPI's operationId
    tag: str
    summary: str
    body: type[Strict] | None = None
    upload: bool = False  # the body is multipart with one `file`
    query: type[Strict] = Empty
    answers: Mapping[int, type[BaseModel] | str | None] = field(default_factory=dict)
    largest_body: int = LARGEST_BODY
    later_types: tuple[str, ...] = ()  # content types to come
    headers: Mapping[str, str] = field(default_factory=dict)  # those it reads, and what for
    scope: Scope | None = None  # that a key must have; else reading or writing, as the method does
    open: bool = False  # to anybody, also where there are keys

    @property
    def needs(self) -> Scope | None:
        """The scope that a caller must have; None if it is open to anybody."""
        if self.open:
            return None
        return self.scope or (Scope.READ if self.method == "GET" else Scope.WRITE)

    @property
    def rule(self) -> str:
        """The path as Flask writes it."""
        return self.path.replace("{", "<").replace("}", ">")


def add_routes(app: Flask, routes: list[Route], admit: Admit) -> None:
    """Let an app answer these routes, each for the callers that are admitted to it."""
    for route in routes:
        enter = partial(_enter, route, admit)
        app.add_url_rule(route.rule, endpoint=route.name, view_func=enter, methods=[route.method])
    app.wsgi_app = partial(_unfolded, app.wsgi_app)  # type: ignore[method-assign]


def reply(
    body: BaseModel | bytes | None = None,
    *,
    status: int = 200,
    content_type: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Write an answer; a model becomes JSON."""
    own = {} if body is None else {"Content-Type": content_type}
    written = body.model_dump_json().encode() if isinstance(body, BaseModel) else body or b""
    return Answer(status=status, headers={**own, **(headers or {})}, body=written)


def response_of(answer: Answer) -> Response:
    """Hand an answer to Flask."""
    return Response(answer.body, status=answer.status, headers=dict(answer.headers))


def _unfolded(
    answer: "WSGIApplication", call: "WSGIEnvironment", start: "StartResponse"
) -> Iterable[bytes]:
    """Undo that the server makes one slash of those that a path begins with: //v1 is not /v1."""
    if _FOLDED.match(call.get("REQUEST_URI", "")):
        call["PATH_INFO"] = "/." + call["PATH_INFO"]  # werkzeug would fold it once more
    return answer(call, start)


def _enter(route: Route, admit: Admit, **path: str) -> Response:
    caller = admit(request.headers, route.needs)  # before anything of the body is looked at
    g.key_id = caller.key_id
    return response_of(route.view(_call_of(route, caller, request), **path))


def _call_of(route: Route, caller: Caller, request: Request) -> Call[Any, Any]:
    request.max_content_length = route.largest_body
    if (request.content_length or 0) > route.largest_body:
        raise _too_large(route.largest_body)
    arguments = dict(request.args.lists())
    query = parse(route.query, query_document(arguments))
    document = _document(route, request)
    body = parse(route.body, document) if route.body else document
    key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
    return Call(
        caller=caller,
        body=body,
        document=document,
        query=query,
        path=request.path,
        arguments=arguments,
        headers=request.headers,
        remote=request.remote_addr,
        correlation=g.correlation,
        once=once_of(key, tenant=caller.tenant, path=request.path, document=document),
    )


def _document(route: Route, request: Request) -> object:
    encoding = request.headers.get("Content-Encoding", "identity")
    if (route.body or route.upload) and encoding.strip().lower() not in ("", "identity"):
        raise _encoded(encoding)
    if route.upload:
        return _uploaded(request)
    if route.body is None:
        return None
    if request.mimetype in route.later_types:
        raise not_available(f"a body of {request.mimetype}")
    content = request.get_data(cache=False)
    if not content and not any(f.is_required() for f in route.body.model_fields.values()):
        return {}
    if request.mimetype != JSON:
        raise _unsupported(f"send the body as {JSON}")
    return read_json(content, most_values=route.body.most_values)


def _uploaded(request: Request) -> bytes:
    if request.mimetype != "multipart/form-data":
        raise _unsupported("send the image as multipart/form-data, in a part named file")
    files = request.files.getlist("file")
    foreign = {*request.files, *request.form} - {"file"}
    if foreign or len(files) != 1:
        detail = "there is no such part"
        faults = [Fault(pointer=pointer(name[:LONGEST_NAME]), detail=detail) for name in foreign]
        raise invalid(faults or [Fault(pointer="/file", detail="exactly one file is wanted")])
    content: bytes = files[0].read()
    return content


def _too_large(most: int) -> Refusal:
    detail = f"the body is larger than this path takes: at most {most:,} bytes"
    return Refusal(status=413, code="too_large", detail=detail)


def _encoded(encoding: str) -> Refusal:
    refusal = _unsupported(f"send the body without Content-Encoding: {quoted(encoding)}")
    return replace(refusal, headers={"Accept-Encoding": "identity"})


def _unsupported(detail: str) -> Refusal:
    return Refusal(status=415, code="unsupported_media_type", detail=detail)
