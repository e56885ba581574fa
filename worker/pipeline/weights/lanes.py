"""Do something with many things, several at once, until one fails or somebody hits Ctrl-C."""

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

from shared.errors import IlloError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_lanes(
    work: Callable[[Item], Result], items: Sequence[Item], *, lanes: int
) -> tuple[Result, ...]:
    """Give the results in the order of the items; the first fault ends it and is raised at once.

    What is under way then is not waited for: its threads end with their item, or with the program.
    """
    left, lock = iter(enumerate(items)), threading.Lock()
    done: SimpleQueue[tuple[int, Result] | Exception | None] = SimpleQueue()
    ended = threading.Event()

    def turns() -> Iterator[tuple[int, Item]]:
        while not ended.is_set():
            with lock:
                turn = next(left, None)
            if turn is None:
                return
            yield turn

    def lane() -> None:
        try:
            for number, item in turns():
                done.put((number, work(item)))
        except (IlloError, OSError) as fault:
            done.put(fault)
        finally:
            done.put(None)

    threads = min(lanes, len(items))
    for number in range(threads):
        threading.Thread(target=lane, name=f"lane-{number}", daemon=True).start()
    try:
        return _gathered(done, items=len(items), threads=threads)
    finally:
        ended.set()


def _gathered(
    done: "SimpleQueue[tuple[int, Result] | Exception | None]", *, items: int, threads: int
) -> tuple[Result, ...]:
    results: dict[int, Result] = {}
    while threads:
        told = done.get()
        if isinstance(told, Exception):
            raise told
        if told is None:
            threads -= 1
        else:
            results[told[0]] = told[1]
    assert len(results) == items, "a lane ended by itself; its thread has said why"
    return tuple(results[number] for number in range(items))
