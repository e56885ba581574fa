"""The routes of the queue as a whole and of the workers."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from api.batch_takes import wake_first
from api.guard import refuse_remote
from api.idempotency import answer_once_afterwards
from api.present import present_control, present_worker
from api.queue_overview import overview, without_others
from api.requests import Empty, PauseRequest
from api.responses import ControlBody, QueueOverviewBody, WorkersBody
from api.routing import Call, Route, reply
from api.service import Service
from shared.keys import Scope
from shared.ports import Answer
from shared.turns import PER_TENANT, in_turn
from shared.workers import QueueControl, pause, resume


def queue_routes(service: Service) -> list[Route]:
    """Read, pause and resume the queue, and list the workers."""
    return [
        Route(
            method="GET",
            path="/v1/queue",
            view=partial(read_queue, service),
            name="readQueue",
            tag="queue",
            summary="Read how much waits, since when, and whether anything is drawn",
            answers={200: QueueOverviewBody},
        ),
        Route(
            method="POST",
            path="/v1/queue/pause",
            scope=Scope.ADMIN,
            view=partial(pause_queue, service),
            name="pauseQueue",
            tag="queue",
            summary="Have nothing new drawn; what is being drawn goes on",
            body=PauseRequest,
            answers={200: ControlBody},
        ),
        Route(
            method="POST",
            path="/v1/queue/resume",
            scope=Scope.ADMIN,
            view=partial(resume_queue, service),
            name="resumeQueue",
            tag="queue",
            summary="Have jobs drawn again, and forgive failed starts of workers",
            body=Empty,
            answers={200: ControlBody},
        ),
        Route(
            method="GET",
            path="/v1/workers",
            view=partial(list_workers, service),
            name="listWorkers",
            tag="queue",
            summary="List the workers heard of",
            answers={200: WorkersBody},
        ),
    ]


def read_queue(service: Service, call: Call[None, Empty]) -> Answer:
    """Read the queue as a whole."""
    return reply(overview(service.backends, service.settings, call.caller))


def pause_queue(service: Service, call: Call[PauseRequest, Empty]) -> Answer:
    """Pause the queue."""
    refuse_remote(call.caller, call.remote)
    return _turn(service, call, partial(pause, reason=call.body.reason))


def resume_queue(service: Service, call: Call[Empty, Empty]) -> Answer:
    """Resume the queue, and wake workers for what goes first: its messages came to nothing."""
    refuse_remote(call.caller, call.remote)
    answer = _turn(service, call, resume)
    backends, settings = service.backends, service.settings
    due = in_turn(backends.jobs.claimable(per_tenant=PER_TENANT), PER_TENANT)
    wake_first(
        backends, settings, [job.id for job in due], traceparent=call.correlation.traceparent
    )
    return answer


def list_workers(service: Service, call: Call[None, Empty]) -> Answer:
    """List the workers heard of."""
    records = service.backends.workers.records()
    shown = [present_worker(without_others(r, call.caller, service.backends)) for r in records]
    return reply(WorkersBody(data=shown))


def _turn(
    service: Service,
    call: Call[Any, Empty],
    change: Callable[[QueueControl, datetime], QueueControl],
) -> Answer:
    workers = service.backends.workers

    def act() -> Answer:
        return reply(present_control(workers.update_control(change)))

    return answer_once_afterwards(call.once, service.backends.jobs, workers.now, act)
