"""The routes of batches, their scenes and their takes."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from api.batch_edit import accept_take, cancel_batch, edit_scene
from api.batch_requests import (
    LARGEST_BATCH,
    BatchRequest,
    ReprocessRequest,
    SceneSource,
    ScenesQuery,
    SheetQuery,
)
from api.batch_responses import BatchBody, ReprocessBody, ScenesBody, SceneTakesBody
from api.batch_submit import submit_batch
from api.batch_views import find_batch, find_scene, show_batch
from api.idempotency import Keep, answer_once, answer_once_afterwards, remember
from api.pages import next_link, with_cursor
from api.rate_limits import tell_now
from api.reprocess import reprocess
from api.requests import Empty
from api.results import CONTENT_TYPE as LINES
from api.results import results_of
from api.routing import Call, Route, reply
from api.scene_views import page_of_scenes, show_scene
from api.service import Service
from shared.ports import Answer

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


def batch_routes(service: Service, nudge: threading.Event | None = None) -> list[Route]:
    """Submit, read, edit, cancel and reprocess batches; `nudge` asks for a sweep at once."""
    return [
        Route(
            method="POST",
            path="/v1/batches",
            view=partial(create_batch, service, nudge),
            name="createBatch",
            tag="batches",
            summary="Have up to 10,000 scenes drawn; all are accepted, or none",
            body=BatchRequest,
            largest_body=LARGEST_BATCH,
            later_types=NDJSON,
            answers={202: BatchBody},
        ),
        Route(
            method="GET",
            path="/v1/batches/{id}",
            view=partial(read_batch, service),
            name="readBatch",
            tag="batches",
            summary="Read a batch: counts, progress, what is stale, when it will be done",
            answers={200: BatchBody},
        ),
        Route(
            method="POST",
            path="/v1/batches/{id}/cancel",
            view=partial(cancel, service),
            name="cancelBatch",
            tag="batches",
            summary="Cancel all of a batch's jobs that have not ended",
            body=Empty,
            answers={200: BatchBody},
        ),
        Route(
            method="POST",
            path="/v1/batches/{id}/reprocess",
            view=partial(reprocess_batch, service),
            name="reprocessBatch",
            tag="batches",
            summary="Draw selected scenes again; every run adds a take",
            body=ReprocessRequest,
            answers={202: ReprocessBody},
        ),
        Route(
            method="GET",
            path="/v1/batches/{id}/results.jsonl",
            view=partial(read_results, service),
            name="readBatchResults",
            tag="batches",
            summary="Read one line of JSON for each scene",
            answers={200: LINES},
        ),
        Route(
            method="GET",
            path="/v1/batches/{id}/contact-sheet.png",
            view=partial(read_sheet, service),
            name="readContactSheet",
            tag="batches",
            summary="See up to 200 scenes at a glance",
            query=SheetQuery,
            answers={200: "image/png"},
        ),
        *_scene_routes(service),
    ]


def _scene_routes(service: Service) -> list[Route]:
    return [
        Route(
            method="GET",
            path="/v1/batches/{id}/scenes",
            view=partial(find_scenes, service),
            name="listScenes",
            tag="batches",
            summary="List a batch's scenes in order, with their newest and accepted takes",
            query=ScenesQuery,
            answers={200: ScenesBody},
        ),
        Route(
            method="GET",
            path="/v1/batches/{id}/scenes/{key}",
            view=partial(read_scene, service),
            name="readScene",
            tag="batches",
            summary="Read a scene with all of its takes",
            answers={200: SceneTakesBody},
        ),
        Route(
            method="PUT",
            path="/v1/batches/{id}/scenes/{key}",
            view=partial(put_scene, service),
            name="editScene",
            tag="batches",
            summary="Say anew what a scene wants; reprocess what is stale to have it drawn",
            body=SceneSource,
            answers={200: SceneTakesBody},
        ),
        Route(
            method="POST",
            path="/v1/batches/{id}/scenes/{key}/takes/{take}/accept",
            view=partial(accept, service),
            name="acceptTake",
            tag="batches",
            summary="Let this take stand for its scene",
            body=Empty,
            answers={200: SceneTakesBody},
        ),
    ]


def create_batch(
    service: Service, nudge: threading.Event | None, call: Call[BatchRequest, Empty]
) -> Answer:
    """Accept a batch."""

    def act(keep: Keep) -> Answer:
        traceparent = call.correlation.traceparent
        answer = submit_batch(call.body, call.tenant, service, keep=keep, traceparent=traceparent)
        if nudge:
            nudge.set()  # the sweep expands what is left
        return answer

    return answer_once(call.once, service.backends.jobs, act)


def read_batch(service: Service, call: Call[None, Empty], id: str) -> Answer:
    """Read a batch."""
    return reply(show_batch(find_batch(id, call.tenant, service), service))


def cancel(service: Service, call: Call[Empty, Empty], id: str) -> Answer:
    """Cancel a batch."""

    def act() -> Answer:
        batch = cancel_batch(find_batch(id, call.tenant, service), service)
        return reply(show_batch(batch, service))

    return _once(call, service, act)


def reprocess_batch(service: Service, call: Call[ReprocessRequest, Empty], id: str) -> Answer:
    """Draw scenes again."""
    jobs = service.backends.jobs

    def act(keep: Keep) -> Answer:
        batch = find_batch(id, call.tenant, service)
        traceparent = call.correlation.traceparent
        body = reprocess(call.body, batch, service, once=call.once, traceparent=traceparent)
        answer = reply(body, status=202, headers={"Location": f"/v1/batches/{id}"})
        remember(keep(answer, service.backends.workers.now()), jobs)
        return tell_now(answer, call.tenant, service)

    return answer_once(call.once, jobs, act)


def read_results(service: Service, call: Call[None, Empty], id: str) -> Answer:
    """Read the results of all scenes."""
    batch = find_batch(id, call.tenant, service)
    return reply(results_of(batch, service), content_type=LINES)


def read_sheet(service: Service, call: Call[None, SheetQuery], id: str) -> Answer:
    """Draw a page of the contact sheet."""
    from api.contact_sheet import sheet_of  # it brings Pillow, which few processes need

    batch = find_batch(id, call.tenant, service)
    return reply(sheet_of(batch, call.query.page, service), content_type="image/png")


def find_scenes(service: Service, call: Call[None, ScenesQuery], id: str) -> Answer:
    """List scenes."""
    batch = find_batch(id, call.tenant, service)
    bodies, cursor = with_cursor(lambda: page_of_scenes(call.query, batch, service))
    headers = next_link(call.path, call.arguments, cursor)
    return reply(ScenesBody(data=bodies, next_cursor=cursor), headers=headers)


def read_scene(service: Service, call: Call[None, Empty], id: str, key: str) -> Answer:
    """Read a scene."""
    batch = find_batch(id, call.tenant, service)
    return reply(show_scene(find_scene(key, batch, service), service))


def put_scene(service: Service, call: Call[SceneSource, Empty], id: str, key: str) -> Answer:
    """Edit a scene."""
    batch = find_batch(id, call.tenant, service)
    return reply(show_scene(edit_scene(call.body, key, batch, service), service))


def accept(service: Service, call: Call[Empty, Empty], id: str, key: str, take: str) -> Answer:
    """Accept a take."""

    def act() -> Answer:
        batch = find_batch(id, call.tenant, service)
        return reply(show_scene(accept_take(take, key, batch, service), service))

    return _once(call, service, act)


def _once(call: Call[Any, Any], service: Service, act: Callable[[], Answer]) -> Answer:
    store, now = service.backends.jobs, service.backends.workers.now
    return answer_once_afterwards(call.once, store, now, act)
