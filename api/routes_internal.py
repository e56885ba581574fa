"""The route that only Google's scheduler may call: it knows no tenant and asks for no key."""

import time
from functools import partial
from typing import TYPE_CHECKING

from pydantic import BaseModel

from api.problems import Refusal
from api.queue_event import tell_queue
from api.requests import Empty
from api.routing import Call, Route, reply
from api.service import Service
from api.sweep import SweepReport, sweep_once
from shared.errors import Unauthenticated, WrongIdentity
from shared.ports import Answer

if TYPE_CHECKING:  # it brings a Google library, which the API starts without
    from shared.identity import PushIdentity

LONGEST = 50.0  # seconds; the scheduler calls every minute and waits for three


class SweepBody(BaseModel):
    """What a sweep did; unfinished where its time was over first, or why it woke nobody."""

    ended: int = 0
    woken: int = 0
    expanded: int = 0
    cleaned: int = 0
    retired: int = 0
    uploads: int = 0
    unfinished: bool = False
    held: str | None = None


def internal_routes(service: Service, sweeper: "PushIdentity | None") -> list[Route]:
    """Let the scheduler's identity sweep, where the settings tell of one; never described."""
    if sweeper is None or service.settings.sweep_audience is None:
        return []
    return [
        Route(
            method="POST",
            path="/internal/sweep",
            view=partial(sweep, service, sweeper),
            name="sweep",
            tag="internal",
            summary="Repair what messages, workers and requests have left undone",
            answers={200: SweepBody},
            open=True,  # to all without a key: who calls is told by an identity token
        )
    ]


def sweep(service: Service, sweeper: "PushIdentity", call: Call[None, Empty]) -> Answer:
    """Sweep until nothing is left to go on with at once, or the time is over; tell the queue."""
    _refuse_strangers(call.headers.get("Authorization"), sweeper)
    end = time.monotonic() + LONGEST
    done = SweepBody()
    while True:
        report = sweep_once(service.backends, service.settings)
        done = _added(done, report)
        if not report.unfinished or time.monotonic() >= end:
            break
    tell_queue(service.backends, service.settings)
    return reply(done)


def _refuse_strangers(authorization: str | None, sweeper: "PushIdentity") -> None:
    from shared.identity import verify

    try:
        verify(authorization, sweeper)
    except Unauthenticated as error:
        challenge = {"WWW-Authenticate": "Bearer"}
        raise Refusal(
            status=401, code="unauthenticated", detail=str(error), headers=challenge
        ) from None
    except WrongIdentity as error:
        raise Refusal(status=403, code="wrong_identity", detail=str(error)) from None


def _added(done: SweepBody, report: SweepReport) -> SweepBody:
    return SweepBody(
        ended=done.ended + report.ended,
        woken=done.woken + report.woken,
        expanded=done.expanded + report.expanded,
        cleaned=done.cleaned + report.cleaned,
        retired=done.retired + report.retired,
        uploads=done.uploads + report.uploads,
        unfinished=report.unfinished,
        held=report.held,
    )
