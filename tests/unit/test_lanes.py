"""Several at once: in order, no more than wished, and ended by the first fault."""

import threading

import pytest

from shared.errors import WeightsDamaged
from tests.programs import until
from worker.pipeline.weights.lanes import in_lanes


@pytest.mark.parametrize(("items", "lanes"), [(0, 4), (1, 4), (4, 4), (50, 4), (50, 1)])
def test_results_come_in_the_order_of_the_items(items: int, lanes: int) -> None:
    assert in_lanes(lambda number: number * 2, range(items), lanes=lanes) == tuple(
        range(0, 2 * items, 2)
    )


def test_as_many_as_wished_are_done_at_once() -> None:
    together = threading.Barrier(5, timeout=30)
    assert len(in_lanes(lambda _: together.wait(), range(10), lanes=5)) == 10


def test_the_first_fault_is_raised_though_others_are_under_way() -> None:
    under_way, hold = threading.Event(), threading.Event()
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            under_way.set()
            hold.wait(30)
        elif number == 1:
            under_way.wait(30)
            raise WeightsDamaged("this one")

    with pytest.raises(WeightsDamaged, match="this one"):
        in_lanes(work, range(100), lanes=2)
    assert begun == [0, 1]
    hold.set()


def test_a_fault_of_the_disk_is_raised() -> None:
    def work(number: int) -> None:
        raise FileNotFoundError(number)

    with pytest.raises(FileNotFoundError):
        in_lanes(work, range(3), lanes=2)


def test_a_mistake_in_the_code_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda fault: told.append(fault.exc_type))

    def work(number: int) -> None:
        raise KeyError(number)

    with pytest.raises(AssertionError, match="a lane ended by itself"):
        in_lanes(work, range(3), lanes=1)
    until(lambda: told == [KeyError])
