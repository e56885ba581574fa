"""How Firestore is called: within a time that is bounded, and with its faults in our words."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.api_core import exceptions, retry
from google.auth.exceptions import GoogleAuthError

from shared.errors import StoreError, StoreUnavailable

CALL_SECONDS = 10.0  # what one call may take
LAST_CALL_SECONDS = 2.0  # what one may take even when the time is up, to learn how things stand
PATIENCE = 20.0  # seconds of trying, all in all
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries, times a random 0 to 1

# The SDK repeats nothing: we do, and always from the start. None would not do: where a stream
# breaks off, the SDK asks whatever it was given here.
ONCE = retry.Retry(predicate=retry.if_exception_type())

PASSING = (
    exceptions.Cancelled,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.ServiceUnavailable,
    exceptions.Unknown,
)
FAULTS = (exceptions.GoogleAPICallError, GoogleAuthError)

Bounds = Mapping[str, Any]  # how long one call may take, in the SDK's words
Result = TypeVar("Result")


class Patience:
    """What is left of the time to try something in."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = FIRST_PAUSE

    @property
    def over(self) -> bool:
        """Whether there should be no further try."""
        return time.monotonic() >= self._end

    @property
    def bounds(self) -> Bounds:
        """Bound the next call: by what is left, but never to nothing."""
        left = max(LAST_CALL_SECONDS, self._end - time.monotonic())
        return {"timeout": min(CALL_SECONDS, left), "retry": ONCE}

    def rest(self) -> None:
        """Pause before the next try, each time for longer, and never in step with others."""
        time.sleep(self._pause * random.random())  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


def patiently(seconds: float, call: Callable[[Bounds], Result]) -> Result:
    """Make a call that may be repeated until it is answered; raises StoreError."""
    patience = Patience(seconds)
    while True:
        try:
            return call(patience.bounds)
        except FAULTS as fault:
            if not isinstance(fault, (exceptions.Aborted, *PASSING)) or patience.over:
                raise store_error(fault) from None
        patience.rest()


def store_error(fault: Exception) -> StoreError:
    """Say in our words what Firestore refused, or that it cannot be reached."""
    said = getattr(fault, "message", None) or str(fault)
    if isinstance(fault, exceptions.Aborted | exceptions.Conflict):
        return StoreUnavailable(f"Firestore: too many write the same at once; try again ({said})")
    if isinstance(fault, PASSING):
        return StoreUnavailable(f"Firestore cannot be reached; try again later ({said})")
    if isinstance(fault, GoogleAuthError):
        return StoreUnavailable(
            f"Firestore: no token could be had ({said}); try again later, or see whether this "
            "account still exists"
        )
    if isinstance(fault, exceptions.Forbidden | exceptions.Unauthorized):
        return StoreError(
            f"Firestore refuses this account ({said}); it needs the role Cloud Datastore User"
        )
    if isinstance(fault, exceptions.FailedPrecondition):
        return StoreError(
            f"Firestore lacks an index or is not in native mode ({said}); `illo indexes` lists "
            "the indexes that are needed"
        )
    if isinstance(fault, exceptions.NotFound):
        return StoreError(
            f"Firestore has no such database ({said}); create one in native mode, or see "
            "ILLO_DATABASE and GOOGLE_CLOUD_PROJECT"
        )
    return StoreError(f"Firestore: {said}")
