"""List what is wrong with a request, a batch above all, up to a number that people still read."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.problems import MOST_FAULTS, Fault, Refusal, and_more, invalid, pointer

LONGEST_QUOTE = 64
UNLISTED = "unlisted"  # the type of an error that says how many more there are
# No control characters but tab and newline. As a pattern it stands in the description, too.
PLAIN = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"
_NO_OBJECT = frozenset({"dataclass_type", "dict_type", "model_type"})  # pydantic names its classes
# The same, with something in it that is no space.
TELLING = PLAIN.replace("*$", r"*[^\s\x00-\x1f\x7f-\x9f]") + PLAIN.removeprefix("^")
CHUNK = 100  # scenes that are validated at once: all of their errors are made, and most forgotten


_PATTERNS = {
    PLAIN: "control characters other than newline and tab are not allowed",
    TELLING: "should say something, and have no control characters but newline and tab",
}


def faults_of(error: ValidationError, document: object) -> list[Fault]:
    """List what a validation found wrong, by pointers into the document, and count what is left."""
    found = error.errors(include_url=False, include_input=False)
    counted = [fault for fault in found if fault["type"] == UNLISTED]
    listed = [fault for fault in found if fault["type"] != UNLISTED]
    faults = [
        Fault(pointer=_pointer(fault["loc"], document), detail=_detail(fault))
        for fault in listed[:MOST_FAULTS]
    ]
    more = len(listed) - len(faults) + sum(fault["ctx"]["count"] for fault in counted)
    where = _pointer(counted[0]["loc"], document) if counted else ""
    return [*faults, and_more(more, under=where)] if more else faults


def quoted(name: object) -> str:
    """Repeat a caller's word, as much of it as one reads."""
    text = str(name)
    return repr(text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "…")


def refused(faults: Sequence[Fault], *, under: str) -> Refusal:
    """Refuse a request for its faults; the last one says how many more there are."""
    return invalid(list(dict.fromkeys(faults)), under=pointer(under))


def at_most_some_faults(given: object, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a long list, and raise the first faults, and how many more there are."""
    if not isinstance(given, list) or not given:
        return validate(given)
    validated: list[Any] = []
    told: list[InitErrorDetails] = []
    more = 0
    for start in range(0, len(given), CHUNK):
        try:
            validated += validate(given[start : start + CHUNK])
        except ValidationError as error:
            first = _first(error, MOST_FAULTS - len(told), start)
            told += first
            more += error.error_count() - len(first)
    if more:
        told.append(_unlisted(more))
    if told:
        raise ValidationError.from_exception_data("scenes", told, hide_input=True)
    return validated


def _first(error: ValidationError, count: int, start: int) -> list[InitErrorDetails]:
    if not count:
        return []
    found = error.errors(include_url=False, include_input=False)[:count]
    return [_again(fault, start) for fault in found]


def _again(fault: Any, start: int) -> InitErrorDetails:
    place, *inside = fault["loc"]
    # as it was, but counted from the list's beginning and not the chunk's
    said = {"message": fault["msg"], "pattern": fault.get("ctx", {}).get("pattern")}
    same = PydanticCustomError(fault["type"], "{message}", said)
    return InitErrorDetails(type=same, loc=(start + place, *inside), input=None)


def _unlisted(count: int) -> InitErrorDetails:
    kind = PydanticCustomError(UNLISTED, "and {count} more", {"count": count})
    return InitErrorDetails(type=kind, loc=(), input=None)


def _pointer(where: Sequence[str | int], document: object) -> str:
    # pydantic also names branches of unions and "[key]", which are no part of the document
    parts: list[str | int] = []
    here: Any = document
    for place, part in enumerate(where):
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            parts.append(part)
            here = here[part]
        elif isinstance(here, dict) and place == len(where) - 1 and part != "[key]":
            parts.append(part)
    return pointer(*parts)


def _detail(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return f"there is no field {quoted(fault['loc'][-1])}"
    if fault["type"] == "missing":
        return "required"
    if fault["type"] in _NO_OBJECT:
        return "should be an object"
    told = _PATTERNS.get(fault.get("ctx", {}).get("pattern"))
    return told or str(fault["msg"]).removeprefix("Value error, ")
