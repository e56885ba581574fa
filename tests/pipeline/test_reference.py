"""References are brought to a size that the model can look at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worker.pipeline.reference import MAX_AREA, fit_reference, fit_size


@pytest.mark.parametrize(
    ("given_size", "fitted"),
    [
        ((1024, 1024), (1024, 1024)),
        ((512, 768), (512, 768)),
        ((500, 771), (496, 768)),
        ((4096, 4096), (1024, 1024)),
        ((4000, 3000), (1184, 880)),
        ((1, 1), (64, 64)),
        ((10, 20), (64, 128)),
        ((4096, 1), (4096, 64)),
    ],
)
def test_a_size_is_fitted(given_size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit_size(*given_size) == fitted


@given(width=st.integers(1, 4096), height=st.integers(1, 4096), multiple=st.sampled_from([16, 32]))
def test_any_size_is_fitted_within_the_bounds(width: int, height: int, multiple: int) -> None:
    fitted = fit_size(width, height, multiple=multiple)
    assert all(64 <= side <= 4096 and side % multiple == 0 for side in fitted)
    assert fitted[0] * fitted[1] <= MAX_AREA
    if max(width, height) <= 4 * min(width, height) and min(width, height) >= 4 * multiple:
        shape, wanted = fitted[0] / fitted[1], width / height
        assert abs(shape / wanted - 1) < 0.25


def test_a_fitting_reference_keeps_its_pixels() -> None:
    picture = Image.effect_noise((64, 80), 60).convert("RGB")
    assert fit_reference(picture).tobytes() == picture.tobytes()
    assert fit_reference(picture.convert("L")).mode == "RGB"
