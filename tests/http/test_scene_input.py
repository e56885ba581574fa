"""The rules that choose a size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.scene_input import size_like
from shared.manifest import LEAST_USUAL_PIXELS
from shared.scenes import USUAL_PIXELS

SIDES = st.integers(1, 4096)
PIXELS = st.integers(LEAST_USUAL_PIXELS, USUAL_PIXELS)
MOST = st.integers(4096, 4_194_304)


@given(width=SIDES, height=SIDES, pixels=PIXELS, max_pixels=MOST)
def test_a_chosen_size_is_one_that_a_request_may_ask_for(
    width: int, height: int, pixels: int, max_pixels: int
) -> None:
    sides = size_like(width, height, pixels, max_pixels)
    assert all(64 <= side <= 2048 and side % 16 == 0 for side in sides)
    assert sides[0] * sides[1] <= max_pixels


@given(width=SIDES, height=SIDES, pixels=PIXELS, max_pixels=MOST)
def test_a_chosen_size_lies_like_its_model(
    width: int, height: int, pixels: int, max_pixels: int
) -> None:
    chosen = size_like(width, height, pixels, max_pixels)
    assert chosen == size_like(height, width, pixels, max_pixels)[::-1] or width == height
    assert (chosen[0] >= chosen[1]) if width >= height else (chosen[0] <= chosen[1])


@given(short=st.integers(256, 2048), long=st.integers(256, 2048))
def test_a_usual_shape_is_kept_at_about_a_megapixel(short: int, long: int) -> None:
    width, height = size_like(long, short, USUAL_PIXELS, 1_600_000)
    if max(long, short) / min(long, short) <= 3:
        assert abs(width / height / (long / short) - 1) < 0.06
        assert 0.94 < width * height / 2**20 < 1.06


@pytest.mark.parametrize(
    ("shape", "chosen"),
    [
        ((1, 1), (128, 128)),
        ((128, 128), (128, 128)),
        ((4096, 4096), (128, 128)),
        ((160, 128), (144, 112)),
        ((1024, 1536), (112, 160)),
    ],
)
def test_weights_that_draw_small_pictures_choose_small_ones(
    shape: tuple[int, int], chosen: tuple[int, int]
) -> None:
    assert size_like(*shape, pixels=128 * 128, max_pixels=1_600_000) == chosen


def test_no_more_is_chosen_than_a_scene_may_have() -> None:
    assert size_like(1, 1, pixels=USUAL_PIXELS, max_pixels=300_000) == (544, 544)
