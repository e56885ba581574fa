"""Describe the routes as OpenAPI 3.1, from the models that validate and present. Pure."""

import json
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.problems import CONTENT_TYPE as PROBLEM_TYPE
from api.problems import Problem
from api.routing import JSON, Route

TITLE = "illo"
ABOUT = "Illustrations of the same character in scene after scene, drawn in the background."
KEY = "key"
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "illo_<key id>_<secret>",
    "description": "A key and the scope it must have; a service without keys asks for none.",
}
Json = dict[str, Any]
Mode = Literal["validation", "serialization"]


def describe(routes: Sequence[Route]) -> bytes:
    """Write the OpenAPI document."""
    schemas, components = models_json_schema(
        list(_models(routes)), ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "1", "description": ABOUT},
        "paths": paths,
        "components": {"schemas": components["$defs"], "securitySchemes": {KEY: BEARER}},
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def _models(routes: Iterable[Route]) -> Iterable[tuple[type[BaseModel], Mode]]:
    found: dict[tuple[type[BaseModel], Mode], None] = {(Problem, "serialization"): None}
    for route in routes:
        if route.body:
            found[route.body, "validation"] = None
        for answer in route.answers.values():
            if isinstance(answer, type):
                found[answer, "serialization"] = None
    return found


def _operation(route: Route, schemas: Any) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
        "responses": _answers(route, schemas),
        "security": [{KEY: [route.needs.value]}] if route.needs else [],
    }
    body = _body(route, schemas)
    return operation | ({"requestBody": body} if body else {})


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _query_parameters(route: Route) -> list[Json]:
    schema = route.query.model_json_schema()
    return [
        {"name": name, "in": "query", "required": False, "schema": _inlined(field, schema)}
        | ({"style": "deepObject", "explode": True} if name == "metadata" else {})
        for name, field in schema.get("properties", {}).items()
    ]


def _headers(route: Route) -> list[Json]:
    read = dict(route.headers)
    if route.method == "POST":
        read["Idempotency-Key"] = "The first answer again, for 24 hours, to whoever repeats it."
    return [
        {"name": name, "in": "header", "description": what, "schema": {"type": "string"}}
        for name, what in read.items()
    ]


def _body(route: Route, schemas: Any) -> Json | None:
    most = f"At most {route.largest_body:,} bytes."
    if route.upload:
        file = {"type": "string", "format": "binary"}
        form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
        content = {"multipart/form-data": {"schema": form}}
        return {"description": most, "required": True, "content": content}
    if route.body is None:
        return None
    needed = any(field.is_required() for field in route.body.model_fields.values())
    schema = schemas[route.body, "validation"]
    return {"description": most, "required": needed, "content": {JSON: {"schema": schema}}}


def _answers(route: Route, schemas: Any) -> Json:
    problem = {PROBLEM_TYPE: {"schema": schemas[Problem, "serialization"]}}
    answers: Json = {
        str(status): _answer(status, answer, schemas) for status, answer in route.answers.items()
    }
    return answers | {"default": {"description": "A refusal.", "content": problem}}


def _answer(status: int, answer: type[BaseModel] | str | None, schemas: Any) -> Json:
    described: Json = {"description": HTTPStatus(status).phrase}
    if isinstance(answer, str):
        # a media type without a schema is any content of that type
        described["content"] = {answer: {}}
    elif answer is not None:
        described["content"] = {JSON: {"schema": schemas[answer, "serialization"]}}
    return described


def _inlined(field: Json, schema: Json) -> Json:
    # parameters have no place of their own for definitions
    text = json.dumps(field)
    for name, definition in schema.get("$defs", {}).items():
        text = text.replace(f'{{"$ref": "#/$defs/{name}"}}', json.dumps(definition))
    inlined: Json = json.loads(text)
    return inlined
