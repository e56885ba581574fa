"""The measure is measured first: true drawings, and drawings of something else."""

from dataclasses import replace

import numpy as np
import pytest

from tests.fidelity.measuring import Score, judged, score
from tests.fidelity.orders import Order, orders, shuffled
from worker.pipeline.artist.characters import Setting
from worker.pipeline.artist.judge import Judge

pytestmark = [pytest.mark.fidelity, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def asked() -> list[Order]:
    return orders(408)


@pytest.fixture(scope="module")
def true(asked: list[Order], judge: Judge) -> Score:
    return score(asked, [order.truth() for order in asked], judge)


def test_all_that_is_asked_for_was_held_out(asked: list[Order]) -> None:
    assert all(order.character.held_out for order in asked)
    assert {order.setting for order in asked} == set(Setting)


@pytest.mark.parametrize("trait", ["colour", "shape", "hat", "eyes", "setting"])
def test_the_judge_reads_true_drawings(true: Score, trait: str) -> None:
    assert getattr(true, trait) >= 0.99


def test_the_judge_reads_hues_to_a_few_degrees(true: Score) -> None:
    assert true.hue_error < 6


def test_another_characters_drawings_score_by_chance(asked: list[Order], judge: Judge) -> None:
    found = score(asked, [order.truth() for order in shuffled(asked)], judge)
    assert found.all_four < 0.05
    assert found.colour < 0.3
    assert found.setting >= 0.99


def test_another_settings_drawings_keep_the_character(asked: list[Order], judge: Judge) -> None:
    settings = [order.setting for order in asked]
    moved = [
        replace(order, setting=setting)
        for order, setting in zip(asked, [*settings[1:], settings[0]], strict=True)
    ]
    found = score(asked, [order.truth() for order in moved], judge)
    assert found.setting < 0.05
    assert found.all_four >= 0.97


def test_the_judge_sees_that_seeds_differ_in_place_and_size(
    asked: list[Order], judge: Judge
) -> None:
    again = [replace(asked[0], seed=seed) for seed in range(40)]
    places = [verdict.place for verdict in judged([order.truth() for order in again], judge)]
    assert np.std([place.x for place in places]) > 8
    assert np.std([place.size for place in places]) > 2
