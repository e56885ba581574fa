"""The HTTP API as a Flask app: its routes, and what every answer has in common."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry
from werkzeug.exceptions import HTTPException

from api.correlation import correlation_of
from api.guard import refuse_foreign
from api.long_poll import LongPolls
from api.meters import Meters
from api.problems import Refusal, present_problem, refusal_of
from api.routes import all_routes
from api.routes_internal import internal_routes
from api.routing import add_routes, response_of
from api.service import Service
from api.tenants import admission
from shared.clock import new_id, new_seed
from shared.errors import IlloError
from shared.scenes import USUAL_PIXELS, Weights
from shared.settings import Settings
from shared.wiring import Backends

if TYPE_CHECKING:  # it brings a Google library, which the API starts without
    from shared.identity import PushIdentity

_DETAILS = {
    404: "there is nothing at this path; /docs lists what there is",
    405: "this path has other methods; Allow lists them",
    413: "the body is larger than this path takes",
}

log = logging.getLogger(__name__)


def create_app(
    backends: Backends,
    settings: Settings,
    weights: Weights,
    *,
    usual_pixels: int = USUAL_PIXELS,
    closing: threading.Event | None = None,
    nudge: threading.Event | None = None,
    sweeper: "PushIdentity | None" = None,
) -> Flask:
    """Make the app.

    A picture has `usual_pixels` where nobody chose its sides. Once `closing` is set, requests that
    wait are answered as things stand. `nudge` is set when there is something for the sweep to do at
    once; `sweeper` may call for one over HTTP. Raises BadSettings if there are keys that cannot be
    read.
    """
    admit = admission(settings, backends.clock)
    places = max(1, settings.http_threads // 2)
    service = Service(
        backends=backends,
        settings=settings,
        weights=weights,
        usual_pixels=usual_pixels,
        polls=LongPolls(places=places, closing=closing or threading.Event()),
        meters=Meters(CollectorRegistry()),
        new_id=new_id,
        new_seed=new_seed,
    )
    app = Flask("illo", static_folder=None)
    app.url_map.merge_slashes = False  # //v1/jobs is no path of ours, and no redirect either
    _frame_requests(app, service.meters, keyed=settings.keys is not None)
    _refuse_with_problems(app)
    routes = [*all_routes(service, nudge), *internal_routes(service, sweeper)]
    add_routes(app, routes, admit)
    return app


def _frame_requests(app: Flask, meters: Meters, *, keyed: bool) -> None:
    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()
        g.correlation = correlation_of(request.headers)
        if not keyed:
            refuse_foreign(request.method, request.headers)

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.correlation.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "private, no-cache")
        _tell(response, meters, time.monotonic() - g.began)
        return response


def _tell(response: Response, meters: Meters, seconds: float) -> None:
    route = request.url_rule.rule if request.url_rule else "unknown"
    # the method is the caller's word: an endless choice of labels if it were taken as it is
    method = request.method if request.url_rule else "any"
    meters.requests.labels(method, route, response.status_code).inc()
    meters.seconds.labels(method, route).observe(seconds)
    event = {
        "request_id": g.correlation.request_id,
        "method": method,
        "route": route,
        "status": response.status_code,
        "seconds": round(seconds, 4),
        "key_id": g.get("key_id"),
    }
    log.info("answered", extra=event)


def _refuse_with_problems(app: Flask) -> None:
    @app.errorhandler(Refusal)
    def refuse(refusal: Refusal) -> Response:
        ids = {"instance": request.path, "request_id": g.correlation.request_id}
        return response_of(present_problem(refusal, **ids))

    @app.errorhandler(IlloError)
    def refuse_fact(error: IlloError) -> Response:
        refusal = refusal_of(error)
        if refusal is None:
            log.error("unexpected", extra={"error": type(error).__name__}, exc_info=error)
        return refuse(refusal or _internal())

    @app.errorhandler(HTTPException)
    def refuse_http(error: HTTPException) -> Response:
        return refuse(_of_werkzeug(error))


def _of_werkzeug(error: HTTPException) -> Refusal:
    status = error.code or 500
    if status >= 500:
        return _internal()
    name = error.name.lower().replace(" ", "_")
    code = {"request_entity_too_large": "too_large", "bad_request": "malformed_request"}
    kept = {k: v for k, v in error.get_headers() if k == "Allow"}
    detail = _DETAILS.get(status) or error.description or name
    return Refusal(status=status, code=code.get(name, name), detail=detail, headers=kept)


def _internal() -> Refusal:
    detail = "something went wrong here; the log says more under this request id"
    return Refusal(status=500, code="internal", detail=detail)
