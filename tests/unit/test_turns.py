"""Whose turn it is: priorities, tenants in turn, like after like, age."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import Job
from shared.scenes import Scene
from shared.turns import (
    PER_TENANT,
    PREFERRED_FOR,
    after_serving,
    in_turn,
    next_in_turn,
    next_together,
)
from shared.vocabulary import Priority, Status
from tests.builders import NOW, a_job, a_reference, a_scene, older

LIKE, UNLIKE = a_scene(references=(a_reference("mia"),)), a_scene(references=(a_reference("tom"),))

jobs = st.builds(
    lambda tenant, priority, age: older(a_job(tenant=tenant, priority=priority), age),
    st.sampled_from(["ada", "bob", "eve"]),
    st.sampled_from(Priority),
    st.integers(0, 600),
)


def next_of(*due: Job, served: list[str] | None = None, last: Job | None = None) -> Job | None:
    return next_in_turn(due, served=served or [], last=last)


def test_nothing_due_is_nobodys_turn() -> None:
    assert next_of() is None


def test_priority_goes_before_age() -> None:
    old, urgent = older(a_job(), 600), a_job(priority=Priority.HIGH)
    assert next_of(old, urgent) == urgent


def test_a_tenant_that_was_not_served_goes_before_one_with_older_jobs() -> None:
    old, new = older(a_job(tenant="ada"), 600), a_job(tenant="bob")
    assert next_of(old, new, served=["ada"]) == new
    assert next_of(old, new, served=["ada", "bob"]) == old
    assert next_of(old, new, served=["bob", "ada"]) == new


def test_a_job_like_the_last_goes_before_an_older_one_of_its_tenant_only() -> None:
    last = a_job(scene=LIKE)
    old, like = older(a_job(scene=UNLIKE), 60), a_job(scene=LIKE)
    assert next_of(old, like, last=last) == like
    assert next_of(old, like) == old
    other_size = a_job(scene=replace(LIKE, width=128))
    assert next_of(old, other_size, last=last) == old
    elsewhere = replace(like, tenant="bob")
    assert next_of(old, elsewhere, last=last) == old


def test_a_stream_of_like_jobs_does_not_starve_the_one_unlike_them() -> None:
    last = a_job(scene=LIKE)
    oldest = a_job(scene=UNLIKE, created_at=NOW - PREFERRED_FOR)
    just_near = a_job(scene=LIKE, created_at=NOW)
    assert next_of(oldest, just_near, last=last) == just_near
    too_young = replace(just_near, created_at=NOW + timedelta(microseconds=1))
    assert next_of(oldest, too_young, last=last) == oldest


def test_only_the_first_few_of_a_tenant_are_looked_through_for_a_like_one() -> None:
    last, like = a_job(scene=LIKE), a_job(scene=LIKE)
    ahead = [older(a_job(scene=UNLIKE), 1 + i) for i in range(PER_TENANT)]
    assert next_of(*ahead[1:], like, last=last) == like
    assert next_of(*ahead, like, last=last) == ahead[-1]


@given(st.lists(jobs, max_size=20), st.integers(0, 25))
def test_turns_are_a_choice_without_repetition_in_order_of_priority(
    due: list[Job], limit: int
) -> None:
    chosen = in_turn(due, limit)
    assert len(chosen) == min(limit, len(due))
    assert len({job.id for job in chosen}) == len(chosen)
    ranks = [job.priority.rank for job in chosen]
    assert ranks == sorted(ranks)
    left_out = [job.priority.rank for job in due if job not in chosen]
    assert not chosen or not left_out or max(ranks) <= min(left_out)


@given(st.lists(jobs, min_size=1, max_size=20))
def test_tenants_of_one_priority_share_the_first_turns_evenly(due: list[Job]) -> None:
    equal = [replace(job, priority=Priority.NORMAL) for job in due]
    tenants = {job.tenant for job in equal}
    first = in_turn(equal, len(tenants))
    assert Counter(job.tenant for job in first) == dict.fromkeys(tenants, 1)


def test_turns_go_on_after_those_who_were_served_and_after_the_last() -> None:
    ada, like = line(UNLIKE, LIKE)
    bob = a_job(tenant="bob")
    assert in_turn([ada, like, bob], 3, served=["ada"]) == [bob, ada, like]
    assert in_turn([ada, like], 2, last=a_job(scene=LIKE)) == [like, ada]


def together(*due: Job, images: int, served: list[str] | None = None) -> list[Job]:
    return next_together(due, images=images, served=served or [], last=None)


def line(*scenes: Scene) -> list[Job]:
    """Jobs of one tenant, the oldest first."""
    return [older(a_job(scene=scene), 100 - place) for place, scene in enumerate(scenes)]


@pytest.mark.parametrize(
    ("counts", "images", "drawn"),
    [
        ((1, 1, 1), 1, 1),
        ((1, 1, 1), 2, 2),
        ((1, 1, 1), 4, 3),
        ((4, 1), 4, 1),
        ((2, 2, 1), 4, 2),
        ((1, 4, 1), 4, 1),
        ((4, 1), 2, 1),
    ],
)
def test_images_are_counted_not_jobs(counts: tuple[int, ...], images: int, drawn: int) -> None:
    due = line(*(a_scene(count=count) for count in counts))
    assert together(*due, images=images) == due[:drawn]


@pytest.mark.parametrize(
    "unlike",
    [
        {"width": 128},
        {"height": 128},
        {"steps": 5},
        {"references": (a_reference(),)},
        {"references": (a_reference(), a_reference("tom", width=128))},
        {"references": (a_reference(), a_reference("tom"), a_reference("eve"))},
    ],
)
def test_only_what_has_one_shape_is_drawn_together(unlike: dict[str, Any]) -> None:
    two: dict[str, Any] = {"references": (a_reference(), a_reference("tom"))}
    first, same, other = line(a_scene(**two), a_scene(**two), a_scene(**two | unlike))
    assert together(first, same, other, images=8) == [first, same]


def test_other_references_of_the_same_sizes_may_be_drawn_together() -> None:
    due = line(LIKE, UNLIKE)
    assert together(*due, images=2) == due


def test_nobody_is_drawn_before_his_turn_to_fill_a_place() -> None:
    first, unlike, like = line(a_scene(), a_scene(width=128), a_scene())
    elsewhere = older(a_job(tenant="bob", scene=a_scene(width=128)), 50)
    assert together(first, elsewhere, like, images=3) == [first]
    assert together(first, unlike, images=3) == [first]


@pytest.mark.parametrize("what", [{"failures": 1}, {"status": Status.RUNNING}])
def test_one_that_may_have_ended_its_worker_is_drawn_alone(what: dict[str, Any]) -> None:
    due = line(a_scene(), a_scene(), a_scene())
    for place, drawn in ((0, due[:1]), (1, due[:1]), (2, due[:2])):
        suspect = a_job(created_at=due[place].created_at, **what)
        line_up = [*due[:place], suspect, *due[place + 1 :]]
        expected = line_up[: len(drawn)]
        assert together(*line_up, images=3) == expected


@given(st.lists(jobs, max_size=20), st.integers(1, 8))
def test_what_is_drawn_together_is_what_would_be_drawn_next(due: list[Job], images: int) -> None:
    chosen = next_together(due, images=images, served=["bob"], last=None)
    assert chosen == in_turn(due, len(chosen), served=["bob"])
    assert bool(chosen) == bool(due)


def test_who_was_served_goes_to_the_end_of_the_line() -> None:
    assert after_serving(["ada", "bob"], "ada") == ["bob", "ada"]
    assert after_serving(["ada"], "eve") == ["ada", "eve"]
