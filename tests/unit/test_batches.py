"""The rules of batches: seeds, takes, what is stale, what is skipped, what an edit changes."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.batch_orders import Order, asked_for, carry_out, foresee
from api.batch_requests import BatchRequest, SceneOverrides, SceneSource
from api.batch_scenes import Surroundings, plan_scenes
from api.batch_wishes import edited, overridden, overrides_of
from api.idempotency import KEPT_FOR
from api.problems import Refusal
from shared.batches import (
    BatchStatus,
    Reseed,
    SeedPolicy,
    Skip,
    Take,
    accepted_take,
    is_stale,
    newest_take,
    present_recipe,
    revise,
    scene_seed,
    skip_reason,
    standing,
    take_id,
    take_of,
)
from shared.scenes import Weights, recipe_of
from shared.vocabulary import Status
from tests.builders import NOW, WEIGHTS, a_batch, a_batch_scene, a_scene, a_take, an_asset

QUEUED, RUNNING, SUCCEEDED = Status.QUEUED, Status.RUNNING, Status.SUCCEEDED
FAILED, CANCELED = Status.FAILED, Status.CANCELED
AROUND = Surroundings(assets={}, weights=WEIGHTS, usual_pixels=2**20, max_pixels=1_600_000)
OTHER_WEIGHTS = Weights(label="other", sha256="1" * 64)

keys = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
seeds = st.integers(0, 2**32 - 1)
statuses = st.sampled_from(Status)


def take(number: int, status: Status = SUCCEEDED, recipe: str = "a") -> Take:
    return Take(job=f"job_{number}", key="p1", take=number, status=status, recipe=recipe)


def order(**what_matters: Any) -> Order:
    usual: dict[str, Any] = {
        "batch": a_batch(id="bat_0"),
        "overrides": {},
        "around": AROUND,
        "reseed": Reseed.KEEP,
        "force": False,
        "request": "req_1",
        "retention": timedelta(days=30),
    }
    return Order(**usual | what_matters)


# --- ids and seeds ----------------------------------------------------------------------------


@given(key=keys, number=st.integers(1, 10_000))
def test_a_takes_job_has_always_the_same_well_formed_id(key: str, number: int) -> None:
    assert take_id("bat_1", key, number) == take_id("bat_1", key, number)
    assert re.fullmatch("job_[a-z2-7]{26}", take_id("bat_1", key, number))


@given(st.sets(st.tuples(st.sampled_from(["bat_1", "bat_2"]), keys, st.integers(1, 99))))
def test_no_two_takes_share_an_id(takes: set[tuple[str, str, int]]) -> None:
    assert len({take_id(*each) for each in takes}) == len(takes)


@given(base=seeds, key=keys, position=st.integers(0, 9_999))
def test_every_policy_gives_a_seed_that_a_scene_accepts(base: int, key: str, position: int) -> None:
    given_by = {
        policy: scene_seed(policy, base, key=key, position=position) for policy in SeedPolicy
    }
    assert given_by[SeedPolicy.FIXED] == base
    assert given_by[SeedPolicy.INCREMENT] == (base + position) % 2**32
    assert all(0 <= seed < 2**32 for seed in given_by.values())


def test_a_seed_per_scene_follows_the_key_and_the_base_but_not_the_position() -> None:
    def seed(base: int, key: str, position: int) -> int:
        return scene_seed(SeedPolicy.PER_SCENE, base, key=key, position=position)

    assert seed(1, "p1", 0) == seed(1, "p1", 5)
    assert len({seed(1, "p1", 0), seed(1, "p2", 0), seed(2, "p1", 0)}) == 3


# --- where a batch stands ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expanded", "canceled", "counts", "expected"),
    [
        (1, False, {SUCCEEDED: 1}, BatchStatus.ACCEPTING),
        (1, True, {CANCELED: 1}, BatchStatus.ACCEPTING),
        (2, False, {QUEUED: 1, SUCCEEDED: 1}, BatchStatus.RUNNING),
        (2, False, {RUNNING: 1, FAILED: 1}, BatchStatus.RUNNING),
        (2, True, {RUNNING: 1, CANCELED: 1}, BatchStatus.RUNNING),
        (2, True, {CANCELED: 1, SUCCEEDED: 1}, BatchStatus.CANCELED),
        (2, False, {FAILED: 1, SUCCEEDED: 1}, BatchStatus.COMPLETED_WITH_FAILURES),
        (2, False, {CANCELED: 1, SUCCEEDED: 1}, BatchStatus.COMPLETED_WITH_FAILURES),
        (2, False, {SUCCEEDED: 2}, BatchStatus.COMPLETED),
    ],
)
def test_a_batch_stands_where_its_newest_takes_stand(
    expanded: int, canceled: bool, counts: dict[Status, int], expected: BatchStatus
) -> None:
    batch = a_batch(scene_count=2, expanded=expanded, canceled=canceled)
    assert standing(batch, counts) is expected


# --- takes ------------------------------------------------------------------------------------


@given(st.lists(statuses, max_size=6), st.none() | st.integers(1, 6))
def test_the_accepted_take_is_the_newest_that_succeeded_unless_a_person_chose(
    history: list[Status], chosen: int | None
) -> None:
    takes = [take(number, status) for number, status in enumerate(history, 1)]
    scene = a_batch_scene(accepted_take=chosen)
    good = [each.take for each in takes if each.status is SUCCEEDED]
    expected = chosen if chosen in good else max(good, default=None)
    found = accepted_take(scene, takes)
    assert (found and found.take) == expected
    newest = newest_take(takes)
    assert (newest.take if newest else 0) == len(takes)


def test_a_deleted_take_counts_no_more() -> None:
    job = a_take(a_batch_scene(), status=SUCCEEDED)
    assert take_of(job) == Take(job=job.id, key="p1", take=1, status=SUCCEEDED, recipe=job.recipe)
    assert take_of(replace(job, deleted_at=NOW)) is None


def test_a_scene_is_stale_when_it_or_the_weights_changed_since_its_accepted_take() -> None:
    scene = a_batch_scene()
    drawn = [take(1, recipe=recipe_of(scene.scene))]
    assert not is_stale(scene, drawn, weights=WEIGHTS)
    assert is_stale(scene, drawn, weights=OTHER_WEIGHTS)
    edited_since = replace(scene, scene=a_scene("Another"))
    assert is_stale(edited_since, drawn, weights=WEIGHTS)
    assert not is_stale(edited_since, [take(1, FAILED)], weights=WEIGHTS)
    assert not is_stale(edited_since, [], weights=WEIGHTS)


def test_only_a_change_counts_the_revision_up() -> None:
    scene = a_batch_scene()
    assert revise(scene, scene.scene, scene.source) is scene
    assert revise(scene, a_scene("Another"), scene.source).revision == 2


WANTED = a_scene()
SAME = recipe_of(WANTED)


@pytest.mark.parametrize(
    ("newest", "accepted", "force", "expected"),
    [
        (take(1, QUEUED), None, False, Skip.IN_PROGRESS),
        (take(2, RUNNING), take(1, recipe=SAME), True, Skip.IN_PROGRESS),
        (take(1, recipe=SAME), take(1, recipe=SAME), False, Skip.UNCHANGED),
        (take(1, recipe=SAME), take(1, recipe=SAME), True, None),
        (take(1, recipe="old"), take(1, recipe="old"), False, None),
        (take(2, FAILED), take(1, recipe=SAME), False, None),
        (take(2, CANCELED), None, False, None),
        # a person chose the older picture: what the scene wants differs from it
        (take(2, recipe=SAME), take(1, recipe="old"), False, None),
        (take(2, recipe="old"), take(1, recipe=SAME), False, Skip.UNCHANGED),
        (None, None, False, None),
    ],
)
def test_a_selected_scene_is_skipped_only_while_drawn_or_unchanged(
    newest: Take | None, accepted: Take | None, force: bool, expected: Skip | None
) -> None:
    assert skip_reason(WANTED, newest, accepted, force=force) is expected


# --- reading scenes ---------------------------------------------------------------------------


def planned(**body: Any) -> list[Any]:
    request = BatchRequest.model_validate(
        {"scenes": [{"key": "p1", "prompt": "Mia"}, {"key": "p2", "prompt": "Tom"}]} | body
    )
    return plan_scenes(request, AROUND, batch="bat_1", base=100)


def pointers_refused(**body: Any) -> list[str]:
    with pytest.raises(Refusal) as refusal:
        planned(**body)
    return [fault.pointer for fault in refusal.value.faults]


def test_scenes_take_from_the_defaults_what_they_leave_out() -> None:
    first, second = planned(
        defaults={"steps": 9, "width": 64, "height": 128, "style": "soft"},
        scenes=[
            {"key": "p1", "prompt": "Mia"},
            {"key": "p2", "prompt": "Tom", "steps": 3, "style": None, "width": None,
             "height": None, "seed": 0},
        ],
    )  # fmt: skip
    assert (first.scene.prompt, first.scene.steps) == ("Mia. soft", 9)
    assert (first.scene.width, first.scene.height) == (64, 128)
    assert (second.scene.prompt, second.scene.steps, second.scene.seed) == ("Tom", 3, 0)
    assert (second.scene.width, second.scene.height) == (1024, 1024)
    assert first.source == {"prompt": "Mia"}


@pytest.mark.parametrize(("length", "fits"), [(3994, True), (3995, False)])
def test_the_style_counts_towards_the_longest_prompt(length: int, fits: bool) -> None:
    body = {"defaults": {"style": "soft"}, "scenes": [{"key": "p1", "prompt": "x" * length}]}
    if fits:
        assert len(planned(**body)[0].scene.prompt) == 4000
    else:
        assert pointers_refused(**body) == ["/scenes/0/prompt"]


def test_a_fault_of_the_defaults_is_named_once_and_one_of_a_scene_at_the_scene() -> None:
    scenes: list[dict[str, Any]] = [{"key": f"p{i}", "prompt": "Mia"} for i in range(5)]
    scenes[3] |= {"width": 64}
    assert pointers_refused(defaults={"references": ["ast_0"]}, scenes=scenes) == [
        "/defaults/references/0",
        "/scenes/3/height",
    ]
    scenes[3] |= {"height": 64, "key": "p1"}
    large = {"width": 2048, "height": 2048}
    assert set(pointers_refused(defaults=large, scenes=scenes)) == {
        "/defaults/width",
        "/scenes/3/key",
    }


@pytest.mark.parametrize(("bad", "listed"), [(100, 100), (101, 101)])
def test_at_most_a_hundred_faults_are_listed_and_then_how_many_more(bad: int, listed: int) -> None:
    scenes = [{"key": f"p{i}", "prompt": "Mia", "width": 64} for i in range(bad)]
    found = pointers_refused(scenes=scenes)
    assert len(found) == listed
    assert (found[-1] == "/scenes") == (bad > 100)


# --- edits and overrides ----------------------------------------------------------------------


def test_an_edited_scene_keeps_its_seed_unless_it_brings_one() -> None:
    scene, batch = a_batch_scene(scene=a_scene(seed=5)), a_batch(defaults={"seed": {"base": 1}})
    kept = edited(scene, batch, SceneSource(prompt="New"), AROUND)
    brought = edited(scene, batch, SceneSource(prompt="New", seed=0), AROUND)
    assert (kept.scene.prompt, kept.scene.seed, kept.revision) == ("New", 5, 2)
    assert brought.scene.seed == 0


@pytest.mark.parametrize(
    ("reseed", "own", "seed", "expected"),
    [
        (Reseed.KEEP, {}, 5, 5),
        (Reseed.INCREMENT, {}, 5, 6),
        (Reseed.INCREMENT, {}, 2**32 - 1, 0),
        (Reseed.KEEP, {"seed": 0}, 5, 0),
        (Reseed.KEEP, {"seed": 0, "steps": 3}, 5, 0),
        (Reseed.KEEP, {"steps": 3}, 5, 5),
    ],
)
def test_a_reprocess_chooses_the_seed(
    reseed: Reseed, own: dict[str, object], seed: int, expected: int
) -> None:
    # the seed in the source is the one it was submitted with, long overtaken
    scene = a_batch_scene(scene=a_scene(seed=seed), source={"prompt": "Mia", "seed": 77})
    changed = overridden(scene, a_batch(), own, AROUND, reseed=reseed, dice="req_1")
    assert changed.scene.seed == expected
    assert changed.scene.steps == own.get("steps", scene.scene.steps)


def test_a_new_seed_is_the_same_for_a_repeated_request_only() -> None:
    def seed(dice: str, key: str = "p1") -> int:
        scene = a_batch_scene(key=key)
        new = Reseed.NEW
        return overridden(scene, a_batch(), {}, AROUND, reseed=new, dice=dice).scene.seed

    assert seed("req_1") == seed("req_1")
    assert len({seed("req_1"), seed("req_2"), seed("req_1", "p2")}) == 3


def test_a_scene_is_not_read_anew_without_need_and_takes_the_weights_served_now() -> None:
    asset = an_asset()
    gone = {"prompt": "Mia", "references": [asset.id]}
    around = replace(AROUND, weights=OTHER_WEIGHTS)
    scene = a_batch_scene(source=gone)
    changed = overridden(
        scene, a_batch(), {"priority": "high"}, around, reseed=Reseed.KEEP, dice=""
    )
    assert changed.scene == replace(scene.scene, weights=OTHER_WEIGHTS)
    assert changed.source == gone | {"priority": "high"}


def test_only_the_overrides_that_are_given_count_and_a_seed_of_null_is_none() -> None:
    assert overrides_of(SceneOverrides(steps=28, seed=None)) == {"steps": 28}


# --- carrying out an order --------------------------------------------------------------------


def test_a_new_take_draws_what_the_scene_says_from_then_on() -> None:
    scene = a_batch_scene(last_take=3)
    newest = a_take(scene, 3, status=FAILED)
    wish = order(overrides={"priority": "high"}, reseed=Reseed.INCREMENT)
    outcome, change = carry_out(scene, newest, NOW, takes=[], order=wish)
    assert change is not None
    assert change.job is not None
    assert (change.scene.last_take, change.scene.revision) == (4, 2)
    assert outcome.job == change.job.id == take_id("bat_0", "p1", 4)
    assert change.job.scene == change.scene.scene
    assert change.job.recipe == present_recipe(change.scene, weights=WEIGHTS)
    assert (change.job.take, change.job.priority, change.job.request) == (4, "high", "req_1")
    assert foresee(scene, [], wish) == outcome


def test_a_take_that_ended_since_the_order_was_made_counts_as_it_is_now() -> None:
    scene = a_batch_scene()
    done = a_take(scene, 1, status=SUCCEEDED)
    as_seen = replace(done, status=RUNNING)
    seen = take_of(as_seen)
    assert seen is not None
    outcome, change = carry_out(scene, done, NOW, takes=[seen], order=order())
    assert (outcome.skip, change) == (Skip.UNCHANGED, None)
    outcome, change = carry_out(scene, as_seen, NOW, takes=[seen], order=order(force=True))
    assert (outcome.skip, change) == (Skip.IN_PROGRESS, None)


def test_a_repeated_request_gets_the_take_that_it_asked_for_before() -> None:
    scene = a_batch_scene(last_take=2)
    mine = a_take(scene, 2, request="req_1")
    assert carry_out(scene, mine, NOW, takes=[], order=order())[0].job == mine.id
    others = replace(mine, request="req_2")
    assert carry_out(scene, others, NOW, takes=[], order=order())[0].skip is Skip.IN_PROGRESS


@pytest.mark.parametrize(
    ("late", "same"), [(timedelta(microseconds=1), True), (timedelta(), False)]
)
def test_a_key_asks_anew_once_it_has_been_forgotten(late: timedelta, same: bool) -> None:
    job = a_take(a_batch_scene(), request="req_1")
    assert asked_for(job, "req_1", NOW + KEPT_FOR - late) is same
