"""The routes that tell of the service itself: health, figures and its description."""

from collections.abc import Callable
from functools import partial

from pydantic import BaseModel

from api.docs_page import docs_page
from api.meters import CONTENT_TYPE
from api.openapi import describe
from api.requests import Empty
from api.responses import HealthBody
from api.routing import Call, Route, reply
from api.service import Service
from shared.keys import Scope
from shared.ports import Answer

HTML = "text/html; charset=utf-8"
# Nothing is loaded from anywhere; the style is in the page.
CLOSED = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def service_routes(service: Service, others: list[Route]) -> list[Route]:
    """Tell whether the service is well, what it counts and what can be asked of it."""
    routes: list[Route] = []

    def description(call: Call[None, Empty]) -> Answer:
        return reply(describe([*others, *routes]))

    def page(call: Call[None, Empty]) -> Answer:
        html = docs_page(describe([*others, *routes])).encode()
        return reply(html, content_type=HTML, headers=CLOSED)

    routes += [
        _open("/healthz", healthy, "readHealth", "Tell that the process answers", HealthBody),
        _open(
            "/readyz",
            partial(ready, service),
            "readReadiness",
            "Tell that the store can be reached, or answer 503",
            HealthBody,
        ),
        Route(
            method="GET",
            path="/metrics",
            scope=Scope.ADMIN,
            view=partial(metrics, service),
            name="readMetrics",
            tag="service",
            summary="Read what Prometheus collects",
            answers={200: "text/plain"},
        ),
        _open(
            "/openapi.json",
            description,
            "readDescription",
            "Read this description",
            "application/json",
        ),
        _open("/docs", page, "readDocs", "Read this description as a page", "text/html"),
    ]
    return routes


def healthy(call: Call[None, Empty]) -> Answer:
    """Tell that the process answers."""
    return reply(HealthBody())


def ready(service: Service, call: Call[None, Empty]) -> Answer:
    """Tell that the store can be reached; StoreUnavailable becomes 503."""
    service.backends.workers.control()
    return reply(HealthBody())


def metrics(service: Service, call: Call[None, Empty]) -> Answer:
    """Read what Prometheus collects."""
    exposed = service.meters.expose(service.backends.jobs)
    return reply(exposed, content_type=CONTENT_TYPE)


def _open(
    path: str,
    view: Callable[..., Answer],
    name: str,
    summary: str,
    answer: type[BaseModel] | str,
) -> Route:
    return Route(
        method="GET",
        path=path,
        open=True,
        view=view,
        name=name,
        tag="service",
        summary=summary,
        answers={200: answer},
    )
