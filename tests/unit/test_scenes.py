"""Recipes: everything that decides the pixels counts, and nothing else does."""

from dataclasses import fields, replace

import pytest

from shared.scenes import ImageFormat, Scene, Weights, recipe_of
from tests.builders import a_reference, a_scene, sha

OTHER = {
    "prompt": "Mia falls asleep",
    "width": 128,
    "height": 128,
    "steps": 5,
    "guidance": 3.0,
    "seed": 8,
    "count": 2,
    "format": ImageFormat.WEBP,
    "references": (a_reference("mia"),),
    "weights": Weights(label="tiny", sha256=sha("other")),
}


def test_every_field_of_a_scene_is_tried_here() -> None:
    assert set(OTHER) == {field.name for field in fields(Scene)}


@pytest.mark.parametrize("name", OTHER)
def test_each_of_them_changes_the_recipe(name: str) -> None:
    scene = a_scene()
    assert recipe_of(replace(scene, **{name: OTHER[name]})) != recipe_of(scene)
    assert len(recipe_of(scene)) == 64


def test_the_same_picture_under_another_name_is_the_same_recipe() -> None:
    first = a_reference("mia")
    again = replace(first, asset="ast_" + sha("again"), artifact="assets/again.png", generation=9)
    assert recipe_of(a_scene(references=(first,))) == recipe_of(a_scene(references=(again,)))


def test_the_order_of_references_counts() -> None:
    two = (a_reference("mia"), a_reference("leo"))
    assert recipe_of(a_scene(references=two)) != recipe_of(a_scene(references=two[::-1]))


def test_seeds_follow_each_other_and_wrap() -> None:
    assert a_scene(seed=2**32 - 1, count=3).seeds == (2**32 - 1, 0, 1)


def test_work_is_counted_in_steps_of_a_million_pixels() -> None:
    assert a_scene(width=1000, height=500, steps=4, count=2).megapixel_steps == 4.0
