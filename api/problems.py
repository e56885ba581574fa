"""Refusals, and the one body they all have: RFC 9457 problem details with OpenAI's `error`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field

from shared import errors
from shared.ports import Answer

RETRY_AFTER = {"Retry-After": "5"}
CONTENT_TYPE = "application/problem+json"
MOST_FAULTS = 100  # that one answer lists

# Every code, and its title; /docs lists them under the anchors that `type` names.
CODES = {
    "malformed_request": "The request cannot be read",
    "malformed_json": "The body is not JSON",
    "invalid_header": "A header cannot be used",
    "not_available": "Not available in this version",
    "unauthenticated": "A valid key is needed",
    "insufficient_scope": "The key may not do that",
    "wrong_identity": "This account may not do that",
    "foreign_host": "The request is for another host",
    "foreign_origin": "The request comes from another site",
    "loopback_only": "Only this machine may do that",
    "not_found": "There is no such thing",
    "method_not_allowed": "Not with this method",
    "job_active": "The job has not ended",
    "in_progress": "The scene is being drawn already",
    "take_not_succeeded": "The take has no images",
    "asset_in_use": "The asset is needed",
    "reference_deleted": "A reference was deleted",
    "deleted": "It was deleted",
    "too_large": "The body is too large",
    "unsupported_media_type": "The body is of another type",
    "invalid_request": "The request says something that cannot be done",
    "invalid_image": "The file is not an image to draw from",
    "idempotency_mismatch": "The key came with another request",
    "quota_exceeded": "A quota is used up",
    "store_unavailable": "The store cannot be reached",
    "internal": "Something went wrong here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a request, and the JSON pointer to it."""

    pointer: str
    detail: str
    unlisted: int = 0  # how many others it stands for, which nobody would read


@dataclass(kw_only=True)
class Refusal(Exception):
    """A request that is not done, and what its sender is told."""

    status: int
    code: str
    detail: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class FaultBody(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(extra="forbid")

    pointer: str = Field(description="A JSON pointer into the body, or to a query parameter.")
    detail: str


class OpenAIError(BaseModel):
    """The same refusal as the OpenAI SDK reads it."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """A refusal, as RFC 9457 and the OpenAI SDK read it."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FaultBody]
    request_id: str
    error: OpenAIError


def present_problem(refusal: Refusal, *, instance: str, request_id: str) -> Answer:
    """Write a refusal as an answer."""
    body = Problem(
        type=f"/docs#{refusal.code}",
        title=CODES.get(refusal.code, refusal.code),
        status=refusal.status,
        detail=refusal.detail,
        instance=instance,
        code=refusal.code,
        errors=[FaultBody(pointer=f.pointer, detail=f.detail) for f in refusal.faults],
        request_id=request_id,
        error=OpenAIError(
            message=_message(refusal),
            type=_openai_type(refusal.status),
            param=_param(refusal.faults[0].pointer) if refusal.faults else None,
            code=refusal.code,
        ),
    )
    headers = {"Content-Type": CONTENT_TYPE, **refusal.headers}
    return Answer(status=refusal.status, headers=headers, body=body.model_dump_json().encode())


def invalid(faults: Sequence[Fault], *, under: str = "") -> Refusal:
    """Refuse a well-formed request for what it says.

    If there are many faults, the last one says how many more there are `under` a pointer.
    """
    found = [fault for fault in faults if not fault.unlisted]
    summaries = [fault for fault in faults if fault.unlisted]
    told = found[:MOST_FAULTS]
    more = len(found) - len(told) + sum(fault.unlisted for fault in summaries)
    count = "one fault" if len(told) + more == 1 else f"{len(told) + more:,} faults"
    if more:
        told.append(and_more(more, under=summaries[0].pointer if summaries else under))
    return Refusal(
        status=422, code="invalid_request", detail=f"the request has {count}", faults=told
    )


def and_more(count: int, *, under: str) -> Fault:
    """Stand for faults that are not listed."""
    detail = f"and {count:,} more {'fault' if count == 1 else 'faults'}, not listed"
    return Fault(pointer=under, detail=detail, unlisted=count)


def not_available(what: str, *, pointer: str | None = None) -> Refusal:
    """Refuse what this version of illo has not learned yet."""
    detail = f"{what}: not available in this version"
    faults = () if pointer is None else (Fault(pointer=pointer, detail=detail),)
    return Refusal(status=400, code="not_available", detail=detail, faults=faults)


def not_found(what: str) -> Refusal:
    """Refuse a request for something that this tenant does not have."""
    return Refusal(status=404, code="not_found", detail=what)


def gone(what: str) -> Refusal:
    """Refuse a request for something that was deleted."""
    return Refusal(status=410, code="deleted", detail=what)


def refusal_of(error: errors.IlloError) -> Refusal | None:
    """Say how a fact is refused over HTTP; None for one that no request should meet."""
    if isinstance(error, errors.StoreUnavailable | errors.ArtifactStoreUnavailable):
        away = "the store cannot be reached just now; nothing was changed, try again"
        if isinstance(error, errors.StoreFull | errors.ArtifactStoreFull):
            away = f"{error}; nothing was changed"
        return Refusal(status=503, code="store_unavailable", detail=away, headers=RETRY_AFTER)
    for kind, status, code in _FACTS:
        if isinstance(error, kind):
            return Refusal(status=status, code=code, detail=str(error))
    return None


def pointer(*parts: str | int) -> str:
    """Write a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


_FACTS: tuple[tuple[type[errors.IlloError], int, str], ...] = (
    (errors.JobNotFound, 404, "not_found"),
    (errors.BatchNotFound, 404, "not_found"),
    (errors.SceneNotFound, 404, "not_found"),
    (errors.JobActive, 409, "job_active"),
    (errors.ArtifactNotFound, 404, "not_found"),
)


def _message(refusal: Refusal) -> str:
    if not refusal.faults:
        return refusal.detail
    told = [": ".join(filter(None, (each.pointer, each.detail))) for each in refusal.faults[:5]]
    return "; ".join(told)


def _param(pointer: str) -> str:
    names = pointer.lstrip("/").replace("~1", "/").replace("~0", "~").split("/")
    return names[0] + "".join(f"[{n}]" if n.isdigit() else f".{n}" for n in names[1:])


def _openai_type(status: int) -> str:
    special = {
        401: "authentication_error",
        403: "permission_error",
        429: "rate_limit_error",
    }
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return special.get(status, "invalid_request_error")
