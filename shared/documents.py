"""Values as JSON documents and back: what a backend stores.

Fields that a newer illo wrote are passed over, those that an older one lacked get their default.
"""

from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from shared.errors import StoreError

Value = TypeVar("Value")


def to_json(value: object) -> str:
    """Write a frozen dataclass as JSON."""
    return _adapter(cast(Any, type(value))).dump_json(value).decode()


def from_json(kind: type[Value], text: str | bytes) -> Value:
    """Read a frozen dataclass; raises StoreError if the document is not one."""
    try:
        return cast(Value, _adapter(cast(Any, kind)).validate_json(text))
    except ValidationError as error:
        where = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors()[:5])
        raise StoreError(f"a stored {kind.__name__} cannot be read: {where}") from None


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
