"""On a card: what must be equal to the bit, and what to within the card's own rounding."""

import pytest

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.equality import (
    STEPS,
    apart,
    draw_both,
    forward,
    resumed,
    scenes_of,
    shared_forward,
)
from benchmarks.gpu.product import open_kontext
from shared.settings import Residency
from worker.pipeline.kontext import Kontext

pytestmark = pytest.mark.gpu

# bfloat16 has 8 bits: each product of another shape may round each number another way
SHARED_PPM = 50_000


def test_a_forward_equals_that_of_diffusers_own_loading(bench: Bench, kontext: Kontext) -> None:
    assert forward(bench, kontext) == 0


@pytest.mark.parametrize("after", range(1, STEPS))
def test_a_drawing_that_goes_on_ends_as_if_it_had_never_stopped(
    bench: Bench, kontext: Kontext, after: int
) -> None:
    assert resumed(bench, kontext, after) == 0


@pytest.mark.parametrize("residency", [Residency.STREAM_T5, Residency.OFFLOAD])
def test_where_models_lie_changes_no_pixel(
    bench: Bench, kontext: Kontext, residency: Residency
) -> None:
    other = open_kontext(bench, residency=residency)
    assert other.residency is residency
    assert apart(draw_both(kontext, scenes_of(bench)), draw_both(other, scenes_of(bench))) == 0


def test_images_that_share_a_step_are_what_each_alone_is(bench: Bench, kontext: Kontext) -> None:
    assert shared_forward(bench, kontext) <= SHARED_PPM
