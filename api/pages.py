"""How a list says where it continues."""

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlencode

from api.problems import Fault, invalid
from shared.errors import BadCursor

Found = TypeVar("Found")


def next_link(path: str, arguments: Mapping[str, list[str]], cursor: str | None) -> dict[str, str]:
    """Make the Link header of a page that is not the last, for the same query."""
    if cursor is None:
        return {}
    query = {name: values[0] for name, values in arguments.items()} | {"cursor": cursor}
    return {"Link": f'<{path}?{urlencode(query)}>; rel="next"'}


def with_cursor(find: Callable[[], Found]) -> Found:
    """Read a page; a cursor that the store does not know becomes a Refusal."""
    try:
        return find()
    except BadCursor:
        fault = Fault(pointer="/cursor", detail="not a cursor of this list; start again without")
        raise invalid([fault]) from None
