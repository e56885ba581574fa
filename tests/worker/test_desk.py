"""The desk: one drawing at a time, whose turn it is, and when to stop claiming."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from shared.errors import StoreUnavailable
from shared.jobs import Job, claim
from shared.vocabulary import Event, Priority, Status
from tests.builders import a_scene
from tests.fakes import FakePipeline, Gate
from tests.worker.conftest import TERMS, Surroundings
from tests.worker.test_run_job import Flaky


def test_one_call_draws_all_that_is_due(around: Surroundings) -> None:
    jobs = [around.queued() for _ in range(3)]
    assert around.desk().draw_due()
    assert {around.jobs.get(job.id).status for job in jobs} == {Status.SUCCEEDED}


def test_tenants_take_turns_and_the_urgent_go_first(around: Surroundings) -> None:
    pipeline = FakePipeline()
    for tenant in ("ada", "bob"):
        for number in (1, 2):
            around.queued(tenant=tenant, scene=a_scene(f"{tenant} {number}"))
    around.queued(tenant="bob", scene=a_scene("bob now"), priority=Priority.HIGH)
    around.queued(tenant="bob", scene=a_scene("bob later"), priority=Priority.LOW)
    around.desk(around.workplace(pipeline=pipeline)).draw_due()
    assert pipeline.drawn == ["bob now", "ada 1", "bob 1", "ada 2", "bob 2", "bob later"]


def test_only_one_drawing_is_on_the_desk(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    gate = Gate()
    desk = around.desk(around.workplace(pipeline=FakePipeline(at_step=gate)))
    job = around.queued()
    first = in_background(desk.draw_due)
    assert gate.reached.wait(10)
    assert desk.hands.drawing == (job.id,)
    assert desk.draw_due(patience=0.05) is False
    assert not desk.hands.wait_until_free(0.05)
    gate.opened.set()
    desk.hands.wait_until_let_go({job.id})
    first.join(10)
    assert (desk.hands.drawing, desk.hands.finishing) == ((), ())


def test_two_desks_never_draw_the_same_job(around: Surroundings) -> None:
    for _ in range(12):
        around.queued()
    pipelines = [FakePipeline(), FakePipeline()]
    start = threading.Barrier(2)

    def work(number: int) -> None:
        at = around.workplace(holder=f"w{number}", pipeline=pipelines[number])
        start.wait(10)
        around.desk(at).draw_due()

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(len(pipeline.drawn) for pipeline in pipelines) == 12


def test_a_job_that_another_worker_took_meanwhile_does_not_end_the_turn(
    around: Surroundings,
) -> None:
    taken, left = around.queued(), around.queued()

    class Slow:
        """Shows what was due before the other worker came."""

        def __getattr__(self, name: str) -> object:
            return getattr(around.jobs, name)

        def claimable(self, *, per_tenant: int) -> list[Job]:
            due = around.jobs.claimable(per_tenant=per_tenant)
            if any(job.id == taken.id for job in due):
                take = partial(claim, holder="w2", terms=TERMS)
                around.jobs.update(taken.id, take)
            return due

    around.desk(around.workplace(jobs=Slow())).draw_due()
    lease = around.jobs.get(taken.id).lease
    assert lease is not None
    assert lease.holder == "w2"
    assert around.jobs.get(left.id).status is Status.SUCCEEDED


def test_nothing_is_claimed_while_the_queue_is_held(around: Surroundings) -> None:
    job = around.queued()
    around.desk(held=lambda: "paused").draw_due()
    assert around.jobs.get(job.id).status is Status.QUEUED


def test_nothing_more_is_claimed_once_the_worker_must_stop(around: Surroundings) -> None:
    stopping = threading.Event()
    first, second = around.queued(), around.queued()

    class StoppedAtLast(FakePipeline):
        def draw(self, drawings, *, ahead=()):  # type: ignore[no-untyped-def]
            drawn = super().draw(drawings, ahead=ahead)
            stopping.set()
            return drawn

    around.desk(around.workplace(stopping=stopping, pipeline=StoppedAtLast())).draw_due()
    assert around.jobs.get(first.id).status is Status.SUCCEEDED
    assert around.jobs.get(second.id).status is Status.QUEUED


def test_whoever_watches_hears_of_each_job_in_turn_and_then_that_there_is_none(
    around: Surroundings,
) -> None:
    heard: list[str | None] = []
    jobs = [around.queued() for _ in range(3)]
    desk = around.desk(changed=lambda job, rate: heard.append(job.id if job else None))
    desk.draw_due()
    assert list(dict.fromkeys(filter(None, heard))) == [job.id for job in jobs]
    assert heard[-1] is None


def test_a_window_ends_the_claiming_but_the_first_job_is_always_drawn(around: Surroundings) -> None:
    first, second = around.queued(), around.queued()
    slow = FakePipeline(at_step=lambda scene, step: time.sleep(0.01))
    around.desk(around.workplace(pipeline=slow), window=0.0).draw_due()
    assert around.jobs.get(first.id).status is Status.SUCCEEDED
    assert around.jobs.get(second.id).status is Status.QUEUED


def test_an_estimate_that_does_not_fit_the_window_ends_the_claiming(around: Surroundings) -> None:
    small = around.queued(scene=a_scene(steps=2))
    large = around.queued(scene=a_scene(steps=100, width=2048, height=512, count=4))
    slow = FakePipeline(at_step=lambda scene, step: time.sleep(0.01))
    around.desk(around.workplace(pipeline=slow), window=5.0).draw_due()
    assert around.jobs.get(small.id).status is Status.SUCCEEDED
    assert around.jobs.get(large.id).status is Status.QUEUED


def test_a_claim_whose_reply_was_lost_is_used(around: Surroundings) -> None:
    job = around.queued()

    class ReplyLost:
        lost = False

        def __getattr__(self, name: str) -> object:
            return getattr(around.jobs, name)

        def update(self, id: str, change: object) -> Job:
            after = around.jobs.update(id, change)  # type: ignore[arg-type]
            if not self.lost:
                self.lost = True
                raise StoreUnavailable("the reply was lost")
            return after

    around.desk(around.workplace(jobs=ReplyLost())).draw_due()
    ended = around.jobs.get(job.id)
    assert (ended.status, ended.attempt) == (Status.SUCCEEDED, 1)


def test_a_store_that_is_away_before_anything_was_claimed_is_told(around: Surroundings) -> None:
    around.queued()
    away = Flaky(around.jobs, "claimable", StoreUnavailable("away"), range(1, 99))
    with pytest.raises(StoreUnavailable):
        around.desk(around.workplace(jobs=away)).draw_due()


def test_a_store_that_goes_away_between_two_jobs_ends_the_turn_quietly(
    around: Surroundings,
) -> None:
    first, second = around.queued(), around.queued()
    away = Flaky(around.jobs, "claimable", StoreUnavailable("away"), range(2, 99))
    assert around.desk(around.workplace(jobs=away)).draw_due()
    assert around.jobs.get(first.id).status is Status.SUCCEEDED
    assert around.jobs.get(second.id).status is Status.QUEUED


def test_a_job_is_given_back_without_waiting_for_its_step(
    around: Surroundings, in_background: Callable[..., threading.Thread]
) -> None:
    gate, job = Gate(), around.queued()
    desk = around.desk(around.workplace(pipeline=FakePipeline(at_step=gate)), held=once())
    drawing = in_background(desk.draw_due)
    assert gate.reached.wait(10)
    desk.hands.give_back(finishing=False)
    freed = around.jobs.get(job.id)
    assert (freed.status, freed.timeline[-1].event) == (Status.QUEUED, Event.RELEASED)
    gate.opened.set()
    drawing.join(10)
    assert around.jobs.get(job.id) == freed


def once() -> Callable[[], str | None]:
    """Let a desk claim once, and no more."""
    asked: list[int] = []

    def held() -> str | None:
        asked.append(1)
        return None if len(asked) == 1 else "enough"

    return held


def test_a_job_whose_worker_vanished_is_stolen_in_turn(around: Surroundings) -> None:
    job = around.claimed("w0")
    around.jobs.update(job.id, _silent)
    around.desk().draw_due()
    ended = around.jobs.get(job.id)
    assert (ended.status, ended.attempt, ended.failures) == (Status.SUCCEEDED, 2, 1)


def _silent(job: Job, now: object) -> Job:
    from dataclasses import replace

    assert job.lease is not None
    past = job.lease.expires_at - timedelta(hours=1)
    return replace(job, lease=replace(job.lease, expires_at=past))
