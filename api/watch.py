"""Answer with a job: at once, when it has changed, or when it has ended."""

import re
from datetime import timedelta
from typing import Any

from werkzeug.datastructures import ETags, Headers
from werkzeug.http import parse_etags

from api.jobs_view import find_job, show_job
from api.present import etag_of
from api.requests import WaitQuery
from api.responses import JobBody
from api.routing import Call, reply
from api.service import Service
from shared.jobs import Job
from shared.ports import Answer

LONGEST_WAIT = timedelta(seconds=60)

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?=$|[,;])", re.IGNORECASE)


def watch_job(id: str, call: Call[None, WaitQuery], service: Service) -> Answer:
    """Answer with a job once it differs from what the caller has, has ended, or the time is up.

    What the caller has is what If-None-Match says, else the version there is now.
    """
    known = parse_etags(call.headers.get("If-None-Match"))
    first = find_job(id, call.tenant, service)

    def look() -> JobBody:
        return show_job(find_job(id, call.tenant, service), service)

    def arrived(body: JobBody) -> bool:
        changed = not _knows(known, body) if known else body.version != first.version
        return changed or body.status.final

    timeout = timedelta(seconds=call.query.wait)
    return _answer(service.polls.wait_until(arrived, look, timeout=timeout), known)


def answer_with_job(job: Job, service: Service) -> Answer:
    """Answer with a job as it is now."""
    return _answer(show_job(job, service), ETags())


def answer_when_ended(accepted: Answer, call: Call[Any, Any], service: Service) -> Answer:
    """Wait as long as the caller prefers for the accepted job; 201 if it has ended by then."""
    timeout = preferred_wait(call.headers)
    if not timeout:
        return accepted
    job = accepted.headers["Location"].rpartition("/")[2]
    body = service.polls.wait_until(
        lambda body: body.status.final,
        lambda: show_job(find_job(job, call.tenant, service), service),
        timeout=timeout,
    )
    if not body.status.final:
        return accepted
    applied = f"wait={timeout.seconds}"
    headers = {"Location": accepted.headers["Location"], "Preference-Applied": applied}
    return reply(body, status=201, headers=headers)


def preferred_wait(headers: Headers) -> timedelta:
    """Read `Prefer: wait=N`, at most a minute; what it does not understand it passes over."""
    found = _WAIT.search(headers.get("Prefer", ""))
    return min(timedelta(seconds=int(found[1])), LONGEST_WAIT) if found else timedelta()


def _answer(body: JobBody, known: ETags) -> Answer:
    headers = {"ETag": f'W/"{etag_of(body)}"'}  # weak: the ETA is not in it
    if _knows(known, body):
        return reply(status=304, headers=headers)
    return reply(body, headers=headers)


def _knows(known: ETags, body: JobBody) -> bool:
    return known.contains_weak(etag_of(body))
