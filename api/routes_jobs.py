"""The routes of jobs."""

from functools import partial

from api.idempotency import Keep, answer_once, answer_once_afterwards, remember
from api.images import show_image
from api.jobs_view import find_job, list_jobs
from api.pages import next_link, with_cursor
from api.rate_limits import tell_now
from api.reprocess import retake_scene
from api.requests import Empty, JobRequest, JobsQuery, WaitQuery
from api.responses import JobBody, JobsBody
from api.routing import Call, Route, reply
from api.service import Service
from api.submit import accepted, require_ended, submit, wish_again, wish_of
from api.watch import answer_when_ended, answer_with_job, watch_job
from shared.jobs import cancel, delete
from shared.ports import Answer, JobFilter

PREFER = (
    "wait=N: seconds to wait for the end, at most 60; 201 if it came. Not with an Idempotency-Key: "
    "its first answer, which is given again, is the acceptance."
)


def job_routes(service: Service) -> list[Route]:
    """Submit, read, list, cancel, retry and delete jobs, and read their images."""
    return [
        Route(
            method="POST",
            path="/v1/jobs",
            view=partial(create_job, service),
            name="createJob",
            tag="jobs",
            summary="Have a scene drawn; with `Prefer: wait=N` the answer may wait for the end",
            body=JobRequest,
            headers={"Prefer": PREFER},
            answers={202: JobBody, 201: JobBody},
        ),
        Route(
            method="GET",
            path="/v1/jobs",
            view=partial(find_jobs, service),
            name="listJobs",
            tag="jobs",
            summary="List jobs, newest first",
            query=JobsQuery,
            answers={200: JobsBody},
        ),
        Route(
            method="GET",
            path="/v1/jobs/{id}",
            view=partial(read_job, service),
            name="readJob",
            tag="jobs",
            summary="Read a job; with `wait` as soon as it differs from what the caller has",
            query=WaitQuery,
            headers={"If-None-Match": "The ETag of what the caller has."},
            answers={200: JobBody, 304: None},
        ),
        Route(
            method="DELETE",
            path="/v1/jobs/{id}",
            view=partial(delete_job, service),
            name="deleteJob",
            tag="jobs",
            summary="Delete an ended job and its images; a tombstone answers 410 for 30 days",
            answers={204: None},
        ),
        Route(
            method="POST",
            path="/v1/jobs/{id}/cancel",
            view=partial(cancel_job, service),
            name="cancelJob",
            tag="jobs",
            summary="Cancel a job, or ask its worker to stop; an ended job stays as it is",
            body=Empty,
            answers={200: JobBody},
        ),
        Route(
            method="POST",
            path="/v1/jobs/{id}/retry",
            view=partial(retry_job, service),
            name="retryJob",
            tag="jobs",
            summary="Have an ended job's scene drawn again, by a new job that names the old one",
            body=Empty,
            answers={202: JobBody},
        ),
        Route(
            method="GET",
            path="/v1/jobs/{id}/images/{index}",
            view=partial(read_image, service),
            name="readImage",
            tag="jobs",
            summary="Read an image, or be sent to where it is",
            answers={200: "image/*", 302: None, 304: None},
        ),
    ]


def create_job(service: Service, call: Call[JobRequest, Empty]) -> Answer:
    """Accept a job. With an Idempotency-Key nobody waits: the first answer is the acceptance."""

    def act(keep: Keep) -> Answer:
        wish = wish_of(call.body, call.tenant, service)
        return submit(wish, service, keep=keep, traceparent=call.correlation.traceparent)

    answer = answer_once(call.once, service.backends.jobs, act)
    return answer if call.once else answer_when_ended(answer, call, service)


def find_jobs(service: Service, call: Call[None, JobsQuery]) -> Answer:
    """List jobs."""
    found = with_cursor(
        lambda: service.backends.jobs.find(
            _filter(call), limit=call.query.limit, cursor=call.query.cursor
        )
    )
    body = JobsBody(data=list_jobs(found.items, service), next_cursor=found.cursor)
    return reply(body, headers=next_link(call.path, call.arguments, found.cursor))


def read_job(service: Service, call: Call[None, WaitQuery], id: str) -> Answer:
    """Read a job, or wait for it to change."""
    return watch_job(id, call, service)


def delete_job(service: Service, call: Call[None, Empty], id: str) -> Answer:
    """Leave a tombstone; the sweep removes the images."""
    find_job(id, call.tenant, service)
    service.backends.jobs.update(id, delete)
    return reply(status=204)


def cancel_job(service: Service, call: Call[Empty, Empty], id: str) -> Answer:
    """Cancel a job."""

    def act() -> Answer:
        find_job(id, call.tenant, service)
        change = partial(cancel, terms=service.settings.terms)
        return answer_with_job(service.backends.jobs.update(id, change), service)

    return answer_once_afterwards(
        call.once, service.backends.jobs, service.backends.workers.now, act
    )


def retry_job(service: Service, call: Call[Empty, Empty], id: str) -> Answer:
    """Draw an ended job's scene again; of a batch's job that is a new take."""
    jobs, traceparent = service.backends.jobs, call.correlation.traceparent

    def act(keep: Keep) -> Answer:
        job = find_job(id, call.tenant, service)
        if job.batch is None:
            return submit(wish_again(job, service), service, keep=keep, traceparent=traceparent)
        require_ended(job)
        take = retake_scene(job, service, once=call.once, traceparent=traceparent)
        answer = accepted(take, service)
        remember(keep(answer, service.backends.workers.now()), jobs)
        return tell_now(answer, call.tenant, service)

    return answer_once(call.once, jobs, act)


def read_image(service: Service, call: Call[None, Empty], id: str, index: str) -> Answer:
    """Read one of a job's images."""
    return show_image(find_job(id, call.tenant, service), index, call.headers, service)


def _filter(call: Call[None, JobsQuery]) -> JobFilter:
    query = call.query
    pair = next(iter((query.metadata or {}).items()), None)
    return JobFilter(
        tenant=call.tenant,
        status=query.status,
        batch=query.batch,
        metadata=pair,
        created_after=query.created_after,
    )
