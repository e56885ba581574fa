"""Read JSON as RFC 7493 wants it written: UTF-8, no name twice, no NaN, nothing bottomless.

How many values there are is counted before any is made, so that no body costs much more memory
than its own bytes.
"""

import json
import re
from typing import NoReturn

from api.problems import Refusal

DEEPEST = 32  # the deepest body that has a meaning is a batch's, with 5 levels
LONGEST_NUMBER = 300  # beyond it a number is no double, and Python's int() takes quadratic time
# No body that has a meaning comes near these two; what comes nearer is refused by its pointer.
MOST_NAMES = 256
LONGEST_NAME = 256

_STARTS = (b",", b"[", b"{")  # each value comes after one of them, or after a name
# A string, which may lack its end, or what a value comes after. It never looks back.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)


def read_json(body: bytes, *, most_values: int) -> object:
    """Read a body; raises a Refusal (400 malformed_json) saying what is wrong with it."""
    _refuse_many(body, most_values)
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


def _refuse_many(body: bytes, most_values: int) -> None:
    if sum(map(body.count, _STARTS)) <= most_values:
        return  # nearly always, though commas in texts are counted, too
    values = strings = 0
    for token in _TOKEN.finditer(body):
        if body[token.start()] == ord('"'):
            strings += 1
        else:
            values += 1
        # no JSON has more strings than names and values
        if values > most_values or strings > 2 * most_values + 2:
            raise _malformed(f"the body has more than {most_values:,} values")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(pairs) > MOST_NAMES:
        raise _malformed(f"an object has {len(pairs):,} names; at most {MOST_NAMES}")
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("a name occurs twice in one object")
    if any(len(name) > LONGEST_NAME for name in members):
        raise _malformed(f"a name has more than {LONGEST_NAME} characters")
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
