"""Where somebody stands counts more, their face and hat most, and nothing else does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.artist.characters import Place
from worker.pipeline.artist.drawings import SIZES
from worker.pipeline.artist.emphasis import COUNTED, PART, emphasis
from worker.pipeline.artist.stories import story

MOST = 1 + sum(count for _, count in COUNTED)
INSIDE = st.builds(
    Place, x=st.floats(30, 82), y=st.floats(80, 112), size=st.floats(20, 50)
)  # whole within every size


@given(place=INSIDE, size=st.sampled_from(SIZES))
def test_all_that_is_covered_is_counted_once(place: Place, size: tuple[int, int]) -> None:
    counts = emphasis([place], size)
    assert counts.shape == (1, size[0] * size[1] // PART**2)
    areas = [
        (right - left) * (top - bottom) * place.size**2 * count
        for (left, right, bottom, top), count in COUNTED
    ]
    assert (counts - 1).sum().item() * PART**2 == pytest.approx(sum(areas), rel=1e-3)
    assert counts.min() >= 1
    assert counts.max() <= MOST + 1e-5


def test_parts_lie_row_by_row_where_somebody_stands() -> None:
    # in the third column, from the middle of the first row of parts to the end of the second
    [counts] = emphasis([Place(x=80, y=64, size=28)], (128, 96)).view(1, 3, 4)
    assert torch.equal(counts[2], torch.ones(4))
    assert torch.equal(counts[:2, [0, 1, 3]], torch.ones(2, 3))
    assert counts[1, 2] > counts[0, 2] > 1.5


def test_who_reaches_out_of_the_picture_counts_inside_it() -> None:
    counts = emphasis([Place(x=0, y=40, size=80)], (128, 128))
    assert (counts > 2).any()
    assert counts.max() <= MOST


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_counts_most_shows_the_character(number: int) -> None:
    told = story(number, seed=0)
    width, height = told.scene_size
    colour = np.array(told.character.colour)
    for place, picture in zip(told.places(), told.draw_scenes(), strict=True):
        counts = emphasis([place], (width, height)).view(height // PART, width // PART).numpy()
        counted = np.kron(counts, np.ones((PART, PART)))
        own = np.abs(np.asarray(picture).astype(int) - colour).max(axis=2) < 20
        assert counted[own].mean() > 0.6 * MOST
        assert not own[counted == 1].any() or own[counted == 1].mean() < 0.01
