"""Faults at named points of the way to Firestore: put between the SDK and what it sends."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

from shared.gcp.firestore import Firestore

Call = Callable[[], Any]
Fault = Callable[[Call], Any]  # what is done instead of a call


class Faults:
    """Stands in for the SDK's client of the service; what nobody planned goes through."""

    def __init__(self, store: Firestore) -> None:
        self.calls = Counter[str]()
        self.bounds: list[tuple[object, object]] = []  # timeout and retry of every call
        self._plans: dict[str, Iterator[Fault]] = {}
        self._service = store.client._firestore_api
        store.client._firestore_api_internal = self

    def on(self, call: str, *faults: Fault) -> None:
        """Let the next calls of this name meet these faults, one each."""
        self.on_and_on(call, faults)

    def on_and_on(self, call: str, faults: Iterable[Fault]) -> None:
        """Let calls of this name meet faults for as long as there are any."""
        self._plans[call] = iter(faults)

    def __getattr__(self, name: str) -> Any:
        service = getattr(self._service, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            self.bounds.append((named.get("timeout"), named.get("retry")))
            planned = next(self._plans.get(name, iter(())), None)
            go = partial(service, *arguments, **named)
            return planned(go) if planned else go()

        return call


def fault(kind: Any, said: str) -> Exception:
    """Make an error of the SDK, whose constructors have no types."""
    error: Exception = kind(said)
    return error


def refused(error: Exception) -> Fault:
    """Fail before the call reaches the server."""

    def meet(call: Call) -> Any:
        raise error

    return meet


def answer_lost(error: Exception, *, meanwhile: Call = lambda: None) -> Fault:
    """Fail after the server has done it, and after something else has happened."""

    def meet(call: Call) -> Any:
        call()
        meanwhile()
        raise error

    return meet


def after(meanwhile: Call) -> Fault:
    """Do something else first: others are faster."""

    def meet(call: Call) -> Any:
        meanwhile()
        return call()

    return meet


def broken_off(error: Exception) -> Fault:
    """Answer the first of several, then fail: a stream that breaks off."""

    def meet(call: Call) -> Any:
        def some() -> Iterator[Any]:
            yield next(iter(call()))
            raise error

        return some()

    return meet


class Delayed:
    """A call that is given up by its sender and arrives later."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._call: Call | None = None

    def __call__(self, call: Call) -> Any:
        """Keep the call back."""
        self._call = call
        raise self._error

    def arrive(self) -> None:
        """Let it reach the server now, the first time this is asked."""
        call, self._call = self._call, None
        if call:
            call()


class Listened:
    """Keeps what is sent with some calls."""

    def __init__(self, faults: Faults, *calls: str) -> None:
        self.requests: list[Any] = []
        for call in calls:
            faults.on_and_on(call, repeat(self._keep))

    def _keep(self, call: Call) -> Any:
        assert isinstance(call, partial)
        self.requests.append(call.keywords["request"])
        return call()
