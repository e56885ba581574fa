"""What `illo doctor` finds: one thing each, how it is, and what to do if it is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How something was found."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: how it is, and what to do if it is wrong."""

    what: str
    state: State
    said: str


def wrong(what: str, error: object) -> Iterator[Finding]:
    """Tell each line of what was refused."""
    return (Finding(what=what, state=State.WRONG, said=line) for line in str(error).splitlines())


def well(what: str, said: str) -> Finding:
    """Tell what is as it should be."""
    return Finding(what=what, state=State.OK, said=said)


def note(what: str, said: str) -> Finding:
    """Tell what is no fault, but may be unexpected."""
    return Finding(what=what, state=State.NOTE, said=said)
