"""Read JSON as RFC 7493 wants it written: UTF-8, no name twice, no NaN, nothing bottomless."""

import json
from typing import NoReturn

from api.problems import Refusal

DEEPEST = 32  # the deepest body that has a meaning is a batch's, with 5 levels
LONGEST_NUMBER = 300  # beyond it a number is no double, and Python's int() takes quadratic time


def read_json(body: bytes) -> object:
    """Read a body; raises a Refusal (400 malformed_json) saying what is wrong with it."""
    try:
        document = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_int=_integer,
        )
    except UnicodeDecodeError:
        raise _malformed("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _malformed(f"the body is not JSON ({where}): {error.msg}") from None
    except RecursionError:
        raise _malformed("the body is nested too deeply") from None
    _refuse_depth(document)
    return document


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("a name occurs twice in one object")
    if not all(_is_text(name) for name in members):
        raise _malformed("a name has half of a surrogate pair")
    return members


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise _malformed(f"a number has more than {LONGEST_NUMBER} digits")
    return int(digits)


def _no_number(constant: str) -> NoReturn:
    raise _malformed(f"{constant} is not a JSON number")


def _refuse_depth(document: object) -> None:
    level = [document]
    for _ in range(DEEPEST):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise _malformed(f"the body is nested deeper than {DEEPEST} levels")


def _malformed(detail: str) -> Refusal:
    return Refusal(status=400, code="malformed_json", detail=detail)
