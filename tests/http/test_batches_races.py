"""Several people at once: two reprocesses, a cancel in the middle of one, two equal requests."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from tests.http.conftest import House, a_house
from tests.http.stories import draw_scenes, expand_all, submit, submitted
from tests.http.test_batches_reprocess import reprocess, taken


def at_once(house: House, act: Callable[[FlaskClient], Any], people: int = 4) -> list[Any]:
    barrier = threading.Barrier(people)
    # Made one after the other: werkzeug compiles routes with ast, which Python 3.11 does not bear
    # in several threads at once (SystemError: AST constructor recursion depth mismatch).
    clients = [house.client for _ in range(people)]

    def begin(client: FlaskClient) -> Any:
        barrier.wait(20)
        return act(client)

    with ThreadPoolExecutor(people) as pool:
        return list(pool.map(begin, clients))


def elsewhere(act: Callable[[], Any]) -> None:
    """Do something in another thread, as another request would, and wait for it."""
    with ThreadPoolExecutor(1) as other:
        other.submit(act).result(30)


def assert_no_take_is_shared(client: FlaskClient, batch: str, answers: list[Any]) -> None:
    jobs = [job for answer in answers for job in answer["jobs"]]
    assert len(jobs) == len(set(jobs))
    assert set(taken(client, batch).values()) == {2}
    assert len(jobs) == len(taken(client, batch))
    for answer in answers:
        assert answer["selected"] + len(answer["skipped"]) == len(taken(client, batch))


def test_reprocesses_of_several_threads_share_no_take(house: House, client: FlaskClient) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(120)))
    client.post(f"{batch}/cancel", json={})
    expand_all(house)
    answers = at_once(house, lambda client: reprocess(client, batch).json)
    assert_no_take_is_shared(client, batch, answers)


def _in_a_process(folder: Path, batch: str, barrier: Any, answers: Any) -> None:
    client = a_house(folder).client
    barrier.wait(60)
    answers.put(reprocess(client, batch).json)


def test_reprocesses_of_several_processes_share_no_take(house: House, client: FlaskClient) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(120)))
    client.post(f"{batch}/cancel", json={})
    expand_all(house)
    fresh = multiprocessing.get_context("spawn")
    barrier, queue = fresh.Barrier(2), fresh.Queue()
    given = (house.settings.data, batch, barrier, queue)
    processes = [fresh.Process(target=_in_a_process, args=given) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)
    assert_no_take_is_shared(client, batch, answers)


def test_one_key_in_several_hands_is_one_reprocess(house: House, client: FlaskClient) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(120)))
    client.post(f"{batch}/cancel", json={})
    expand_all(house)
    answers = at_once(house, lambda client: reprocess(client, batch, key="k"))
    assert len({answer.data for answer in answers}) == 1
    assert set(taken(client, batch).values()) == {2}


def test_one_key_in_several_hands_is_one_batch(house: House, client: FlaskClient) -> None:
    answers = at_once(house, lambda client: submit(client, headers={"Idempotency-Key": "k"}))
    assert len({answer.data for answer in answers}) == 1
    assert len(client.get("/v1/jobs").json["data"]) == 3
    plans = list((house.settings.data / "artifacts" / "batches").glob("*/scenes.*.jsonl"))
    assert len(plans) == 1, "the losers' scenes are removed"


def test_a_batch_canceled_in_the_middle_of_a_reprocess_ends_canceled(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, *(f"p{i}" for i in range(120)))
    expand_all(house)
    client.post(f"{batch}/cancel", json={})
    batches, calls = house.backends.batches, list[int]()

    class CanceledBetween:
        def __getattr__(self, name: str) -> Any:
            return getattr(batches, name)

        def update_scenes(self, *given: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:  # the first chunk's jobs are there, the second's are not
                elsewhere(lambda: house.client.post(f"{batch}/cancel", json={}))
            return batches.update_scenes(*given)

    hurried = house.client_over(replace(house.backends, batches=CanceledBetween()))  # type: ignore[arg-type]
    assert reprocess(hurried, batch).status_code == 202
    assert len(calls) == 3
    told = client.get(batch).json
    assert (told["status"], told["counts"]["canceled"]) == ("canceled", 120)


def test_a_take_drawn_while_it_is_reprocessed_is_seen_as_it_is(
    house: House, client: FlaskClient
) -> None:
    batch = submitted(client, "p1")
    batches = house.backends.batches

    class DrawnBetween:
        def __getattr__(self, name: str) -> Any:
            return getattr(batches, name)

        def update_scenes(self, *given: Any) -> Any:
            elsewhere(lambda: draw_scenes(house, house.client, batch, "p1"))
            return batches.update_scenes(*given)

    hurried = house.client_over(replace(house.backends, batches=DrawnBetween()))  # type: ignore[arg-type]
    answer = reprocess(hurried, batch).json
    assert answer["skipped"] == [{"key": "p1", "reason": "unchanged"}]
