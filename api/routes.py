"""All routes of the API, in the order in which the description shows them."""

import threading

from api.routes_assets import asset_routes
from api.routes_batches import batch_routes
from api.routes_jobs import job_routes
from api.routes_later import later_routes
from api.routes_queue import queue_routes
from api.routes_service import service_routes
from api.routing import Route
from api.service import Service


def all_routes(service: Service, nudge: threading.Event | None) -> list[Route]:
    """List the routes; `nudge` asks for a sweep at once."""
    routes = [
        *job_routes(service),
        *batch_routes(service, nudge),
        *asset_routes(service),
        *queue_routes(service),
        *later_routes(),
    ]
    return [*routes, *service_routes(service, routes)]
