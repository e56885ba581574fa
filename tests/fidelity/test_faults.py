"""Each fault that is planted changes the picture, and is gone afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.manifest import read_manifest, write_manifest
from tests.fidelity.cases import another_scene, both, drawn_with, nothing, plain, there_and_back
from tests.fidelity.faults import FAULTS
from tests.fidelity.orders import orders, shuffled
from worker.pipeline.kontext import Kontext
from worker.pipeline.start import begin
from worker.pipeline.tiny import make_tiny_weights

pytestmark = pytest.mark.slow

STEPS = 3
ASKED = orders(2)


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> Kontext:
    """Random weights that read few text tokens: what they draw shows only that it changed."""
    directory: Path = tmp_path_factory.mktemp("weights") / "tiny"
    make_tiny_weights(directory)
    write_manifest(directory, replace(read_manifest(directory), text_tokens=24))
    kontext = Kontext(begin(directory, device="cpu"), threads=1)
    # random weights have the full size's scale, which is the fault to plant
    kontext._pipeline.vae.register_to_config(scaling_factor=0.5, shift_factor=0.0)
    return kontext


def drawings(kontext: Kontext) -> list[bytes]:
    return [each.tobytes() for each in drawn_with(kontext, ASKED, steps=STEPS)]


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_planted_fault_changes_the_picture_while_it_is_there(kontext: Kontext, name: str) -> None:
    right = drawings(kontext)
    with FAULTS[name](kontext):
        wrong = drawings(kontext)
    assert all(one != other for one, other in zip(right, wrong, strict=True))
    assert drawings(kontext) == right


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_gone_also_after_a_drawing_that_failed(kontext: Kontext, name: str) -> None:
    right = drawings(kontext)
    with pytest.raises(ZeroDivisionError), FAULTS[name](kontext):
        raise ZeroDivisionError
    assert drawings(kontext) == right


def test_every_way_of_showing_the_character_draws_another_picture(kontext: Kontext) -> None:
    ways = (plain, another_scene, both, nothing)
    drawn = {drawn_with(kontext, ASKED[:1], steps=STEPS, shows=way)[0].tobytes() for way in ways}
    assert len(drawn) == len(ways)


def test_a_shuffled_order_shows_another_character_in_the_same_setting() -> None:
    asked = orders(12)
    for one, other in zip(asked, shuffled(asked), strict=True):
        assert one.setting is other.setting
        assert one.character != other.character


def test_a_picture_comes_back_from_the_vae_in_its_size(kontext: Kontext) -> None:
    pictures = [order.truth() for order in orders(30)[::12]]
    back = there_and_back(kontext, pictures)
    assert [each.size for each in back] == [each.size for each in pictures]
