"""List what is wrong with a batch, up to a number that people still read."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import InitErrorDetails, PydanticCustomError

from api.problems import Fault, Refusal, invalid, pointer

MOST_FAULTS = 100


def refused(faults: Sequence[Fault], *, under: str) -> Refusal:
    """Refuse a request for its faults; the last one says how many more there are."""
    distinct = list(dict.fromkeys(faults))
    more = len(distinct) - MOST_FAULTS
    if more <= 0:
        return invalid(distinct)
    rest = Fault(pointer=pointer(under), detail=_and_more(more))
    return invalid([*distinct[:MOST_FAULTS], rest])


def at_most_some_faults(given: object, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a long list, and raise the first faults if there are many."""
    try:
        return validate(given)
    except ValidationError as error:
        more = error.error_count() - MOST_FAULTS
        if more <= 0:
            raise
        first = error.errors(include_url=False, include_context=False)[:MOST_FAULTS]
        told = [_again(fault["type"], fault["msg"], fault["loc"]) for fault in first]
        told.append(_again("more", _and_more(more), ()))
        raise ValidationError.from_exception_data(error.title, told, hide_input=True) from None


def _again(kind: str, message: str, where: tuple[int | str, ...]) -> InitErrorDetails:
    same = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=same, loc=where, input=None)


def _and_more(count: int) -> str:
    return f"and {count:,} more {'fault' if count == 1 else 'faults'}, not listed"
