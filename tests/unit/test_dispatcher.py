"""The embedded dispatcher beyond the contract: window, endpoints, dead letters, stops, kills."""

import multiprocessing
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.clock import SystemClock
from shared.embedded.delivery import QueueFile, SqlitePublisher
from shared.embedded.dispatcher import Dispatcher, pause_after
from shared.embedded.endpoints import FIRST_REST, LONGEST_REST, Endpoints
from shared.errors import PublishFailed
from shared.messages import Wake
from tests.builders import FakeClock, job_id
from tests.contract.push_server import HANG, push_server

DEADLINE = timedelta(seconds=30)


class UnsignedPushes:
    def token(self) -> str:
        return "token"


@pytest.fixture
def queue(tmp_path: Path) -> QueueFile:
    return QueueFile(tmp_path / "queue.sqlite", clock=SystemClock())


def publish(queue: QueueFile, count: int) -> None:
    for n in range(count):
        SqlitePublisher(queue).publish(Wake(job=job_id(n)))


@contextmanager
def dispatching(
    queue: QueueFile, *urls: str, window: int = 4, **others: Any
) -> Iterator[Callable[[], None]]:
    """Run a dispatcher in a thread; yield what stops it and waits for its end."""
    others = {"ack_deadline": DEADLINE} | others
    dispatcher = Dispatcher(queue, urls, UnsignedPushes(), window=window, **others)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()

    try:
        yield end
    finally:
        end()


def eventually(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came true")


def test_the_window_is_filled_and_never_exceeded(queue: QueueFile) -> None:
    go = threading.Event()
    publish(queue, 7)
    with push_server(go) as server, dispatching(queue, server.url, window=3):
        for _ in range(3):
            server.next_push()
        assert server.now_open == 3
        go.set()
        for _ in range(4):
            server.next_push()
        eventually(lambda: queue.waiting() == 0)
    assert server.most_at_once == 3


def test_the_least_busy_worker_is_pushed_to(queue: QueueFile) -> None:
    go = threading.Event()
    publish(queue, 4)
    with (
        push_server(go) as one,
        push_server(go) as two,
        dispatching(queue, one.url, two.url, window=4),
    ):
        for server in (one, two, one, two):
            server.next_push()
        assert one.pushes.empty()
        assert two.pushes.empty()
        go.set()


def test_a_message_nobody_acknowledges_becomes_a_dead_letter(queue: QueueFile) -> None:
    publish(queue, 1)
    with push_server(500) as server, dispatching(queue, server.url, max_deliveries=3):
        attempts = [server.next_push().envelope.attempt for _ in range(3)]
        eventually(lambda: queue.waiting() == 0)
        (letter,) = queue.dead_letters()
        assert attempts == [1, 2, 3]
        assert letter.deliveries == 3
        assert job_id(0).encode() in letter.body
        publish(queue, 1)
        assert server.next_push().envelope.message_id != str(letter.id)


def test_a_push_that_is_never_answered_gives_its_place_back(queue: QueueFile) -> None:
    publish(queue, 1)
    soon = timedelta(seconds=0.2)
    with (
        push_server(HANG, 204) as server,
        dispatching(queue, server.url, window=1, ack_deadline=soon),
    ):
        attempts = [server.next_push().envelope.attempt for _ in range(2)]
    assert attempts == [1, 2]


def test_processing_counts_as_an_acknowledgement(queue: QueueFile) -> None:
    publish(queue, 1)
    with push_server(102) as server, dispatching(queue, server.url):
        server.next_push()
        eventually(lambda: queue.waiting() == 0)
        assert server.pushes.empty()


def test_a_worker_that_is_not_up_yet_costs_no_delivery(queue: QueueFile) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{reserved.getsockname()[1]}/push"
        publish(queue, 1)
        refused = threading.Event()
        put_back = queue.untake

        def untake(id: int) -> None:
            put_back(id)
            refused.set()

        queue.untake = untake  # type: ignore[method-assign]
        with dispatching(queue, closed, max_deliveries=1):
            for _ in range(3):
                assert refused.wait(30)
                refused.clear()
        assert queue.dead_letters() == []
    with push_server(204) as server, dispatching(queue, server.url, max_deliveries=1):
        assert server.next_push().envelope.attempt == 1


def test_a_worker_that_is_away_does_not_keep_messages_from_the_others(queue: QueueFile) -> None:
    with socket.socket() as reserved, push_server(204) as server:
        reserved.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{reserved.getsockname()[1]}/push"
        publish(queue, 10)
        with dispatching(queue, closed, server.url):
            for _ in range(10):
                server.next_push()


def test_stopping_waits_for_the_pushes_under_way_and_starts_none(queue: QueueFile) -> None:
    go = threading.Event()
    publish(queue, 5)
    with push_server(go) as server, dispatching(queue, server.url, window=1) as stop:
        server.next_push()
        threading.Timer(0.1, go.set).start()
        stop()
        assert go.is_set()
        assert server.pushes.empty()
        assert queue.waiting() == 4


def test_stopping_does_not_wait_past_the_grace(queue: QueueFile) -> None:
    publish(queue, 1)
    with (
        push_server(HANG) as server,
        dispatching(queue, server.url, grace=timedelta(seconds=0.1)) as stop,
    ):
        server.next_push()
        stop()
        assert server.now_open == 1
    assert queue.waiting() == 1


def dispatch_for_good(path: Path, url: str) -> None:
    queue = QueueFile(path, clock=SystemClock())
    dispatcher = Dispatcher(queue, [url], UnsignedPushes(), ack_deadline=DEADLINE, window=4)
    dispatcher.run(threading.Event())


def test_a_killed_dispatcher_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    queue = QueueFile(path, clock=SystemClock())
    publish(queue, 6)
    with push_server(HANG) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=dispatch_for_good, args=(path, server.url)
        )
        process.start()
        under_way = {server.next_push().envelope.wake.job for _ in range(4)}
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert queue.take(9, within=DEADLINE), "the two that nobody took are due"
    with push_server(204) as server, dispatching(queue, server.url):
        pushes = [server.next_push().envelope for _ in range(6)]
        eventually(lambda: queue.waiting() == 0)
    assert {envelope.wake.job for envelope in pushes} == {job_id(n) for n in range(6)}
    assert {envelope.wake.job for envelope in pushes if envelope.attempt == 2} >= under_way


def test_a_queue_that_cannot_be_written_fails_the_publish(tmp_path: Path) -> None:
    queue = QueueFile(tmp_path / "queue.sqlite", clock=SystemClock())
    with closing(sqlite3.connect(tmp_path / "queue.sqlite")) as vandal:
        vandal.execute("DROP TABLE messages")
    with pytest.raises(PublishFailed, match=job_id(0)):
        publish(queue, 1)


def test_a_taken_message_is_due_again_when_its_time_is_over(tmp_path: Path) -> None:
    clock = FakeClock()
    queue = QueueFile(tmp_path / "queue.sqlite", clock=clock)
    publish(queue, 1)
    (first,) = queue.take(9, within=timedelta(seconds=10))
    clock.advance(timedelta(seconds=10) - timedelta(microseconds=1))
    assert queue.take(9, within=timedelta(seconds=10)) == []
    clock.advance(timedelta(microseconds=1))
    assert queue.any_due()
    (second,) = queue.take(9, within=timedelta(seconds=10))
    assert (first.id, first.deliveries, second.id, second.deliveries) == (1, 1, 1, 2)


def test_a_settled_message_never_comes_back(tmp_path: Path) -> None:
    clock = FakeClock()
    queue = QueueFile(tmp_path / "queue.sqlite", clock=clock)
    publish(queue, 1)
    (message,) = queue.take(1, within=timedelta())
    queue.settle(message.id)
    queue.retry(message.id, after=timedelta())
    clock.advance(timedelta(days=1))
    assert queue.recover() == 0
    assert queue.take(1, within=timedelta()) == []


@pytest.mark.parametrize(
    ("deliveries", "seconds"), [(1, 0.1), (2, 0.2), (7, 6.4), (8, 10), (100, 10), (10**9, 10)]
)
def test_the_pause_doubles_up_to_ten_seconds(deliveries: int, seconds: float) -> None:
    assert pause_after(deliveries) == timedelta(seconds=seconds)


def test_an_address_that_refuses_rests_longer_each_time_and_is_forgiven_at_once() -> None:
    now = 0.0
    endpoints = Endpoints(["a"], monotonic=lambda: now)
    for rest in (FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST):
        assert endpoints.acquire() == "a"
        endpoints.release("a", reached=False)
        now += rest * 0.99
        assert endpoints.acquire() is None
        now += rest * 0.02
    for _ in range(20):
        assert endpoints.acquire() == "a"
        endpoints.release("a", reached=False)
        now += LONGEST_REST * 1.01
    assert endpoints.acquire() == "a"
    endpoints.release("a", reached=True)
    assert endpoints.acquire() == "a"
    endpoints.release("a", reached=False)
    now += FIRST_REST * 1.01
    assert endpoints.acquire() == "a"
