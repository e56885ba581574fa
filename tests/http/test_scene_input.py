"""The rules that choose a size."""

from hypothesis import given
from hypothesis import strategies as st

from api.scene_input import size_like

SIDES = st.integers(1, 4096)


@given(width=SIDES, height=SIDES, max_pixels=st.integers(4096, 4_194_304))
def test_a_chosen_size_is_one_that_a_request_may_ask_for(
    width: int, height: int, max_pixels: int
) -> None:
    sides = size_like(width, height, max_pixels)
    assert all(64 <= side <= 2048 and side % 16 == 0 for side in sides)
    assert sides[0] * sides[1] <= max_pixels


@given(width=SIDES, height=SIDES, max_pixels=st.integers(4096, 4_194_304))
def test_a_chosen_size_lies_like_its_model(width: int, height: int, max_pixels: int) -> None:
    chosen = size_like(width, height, max_pixels)
    assert chosen == size_like(height, width, max_pixels)[::-1] or width == height
    assert (chosen[0] >= chosen[1]) if width >= height else (chosen[0] <= chosen[1])


@given(short=st.integers(256, 2048), long=st.integers(256, 2048), max_pixels=st.just(1_600_000))
def test_a_usual_shape_is_kept_at_about_a_megapixel(short: int, long: int, max_pixels: int) -> None:
    width, height = size_like(long, short, max_pixels)
    if max(long, short) / min(long, short) <= 3:
        assert abs(width / height / (long / short) - 1) < 0.06
        assert 0.94 < width * height / 2**20 < 1.06
