"""What the programs of an `illo up` stand on: settings, the way to the workers, and a key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.children import Role
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Footing:
    """`queue` makes the role of what pushes, from the workers' push URLs and the API's URL.

    `key` is one that was made for this run, if any.
    """

    settings: Settings
    queue: Callable[[Sequence[str], str], Role]
    key: str | None = None
