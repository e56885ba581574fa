"""Tokens cover a picture of any sides, whatever one token draws; what lies beyond is cut off."""

from types import SimpleNamespace

import pytest

from tests.pipeline.drawings import a_reference, a_scene, draw
from worker.pipeline.kontext import Kontext
from worker.pipeline.patches import patch_side, patches_over


@pytest.mark.parametrize(
    ("divides_by", "size", "rows_and_columns"),
    [
        (8, (128, 128), (8, 8)),
        (8, (64, 2048), (128, 4)),
        (16, (128, 128), (4, 4)),
        (16, (128, 144), (5, 4)),
        (16, (144, 112), (4, 5)),
        (16, (160, 64), (2, 5)),
    ],
)
def test_tokens_cover_a_scene(
    divides_by: int, size: tuple[int, int], rows_and_columns: tuple[int, int]
) -> None:
    pipeline = SimpleNamespace(vae_scale_factor=divides_by)
    assert patch_side(pipeline) == 2 * divides_by
    assert patches_over(pipeline, a_scene(width=size[0], height=size[1])) == rows_and_columns


@pytest.mark.parametrize(("width", "height"), [(72, 64), (64, 68), (66, 78)])
def test_a_picture_between_whole_tokens_is_the_middle_of_the_larger_one(
    kontext: Kontext, width: int, height: int
) -> None:
    sides = [-(-side // 16) * 16 for side in (width, height)]
    [whole] = draw(kontext, a_scene(width=sides[0], height=sides[1])).images
    [inside] = draw(kontext, a_scene(width=width, height=height)).images
    left, top = (sides[0] - width) // 2, (sides[1] - height) // 2
    assert inside.size == (width, height)
    assert inside.tobytes() == whole.crop((left, top, left + width, top + height)).tobytes()


@pytest.mark.parametrize("size", [(144, 112), (64, 80)])
def test_the_small_artist_draws_every_size_exactly(artist: Kontext, size: tuple[int, int]) -> None:
    reference = a_reference("crimson", 112, 144)
    scene = a_scene(width=size[0], height=size[1], references=(reference,))
    [image] = draw(artist, scene).images
    assert image.size == size
