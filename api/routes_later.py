"""The routes of features to come: refused, never taken for something else."""

from functools import partial

from api.problems import not_available
from api.requests import Empty
from api.routing import Call, Route
from shared.ports import Answer

LATER = (
    ("GET", "/v1/jobs/{id}/events", "readJobEvents", "events of a job"),
    ("GET", "/v1/batches/{id}/archive.zip", "readBatchArchive", "archives of a batch"),
    ("POST", "/v1/images/generations", "createImage", "OpenAI's image generations"),
    ("POST", "/v1/images/edits", "createImageEdit", "OpenAI's image edits"),
    ("GET", "/v1/models", "listModels", "OpenAI's list of models"),
    ("GET", "/v1/models/{id}", "readModel", "OpenAI's models"),
    ("POST", "/internal/events", "takeEvent", "events from Google"),
)


def later_routes() -> list[Route]:
    """Refuse what is not there yet with 400 not_available."""
    return [
        Route(
            method=method,
            path=path,
            view=partial(refuse, what),
            name=name,
            tag="later",
            summary=f"Not available in this version: {what}",
        )
        for method, path, name, what in LATER
    ]


def refuse(what: str, call: Call[None, Empty], **path: str) -> Answer:
    """Refuse a call."""
    raise not_available(what)
