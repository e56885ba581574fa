"""What the artist is shown: characters and settings that chance decides, the same for a seed."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from worker.pipeline.artist.characters import (
    HELD_OUT_ONE_IN,
    Character,
    Eyes,
    Hat,
    Setting,
    Shape,
    draw_character,
    hue_distance,
    plain_place,
    scene_place,
)
from worker.pipeline.artist.drawings import SIZES, draw_plain, draw_scene
from worker.pipeline.artist.emphasis import PART
from worker.pipeline.artist.stories import SCENES, story

BLUE_STAR = Character(hue=215, shape=Shape.STAR, hat=Hat.NONE, eyes=Eyes.TWO)


def scene(setting: Setting, **changes: object) -> Image.Image:
    character = Character(**{"hue": 20.0, "shape": Shape.ROUND, "hat": Hat.CAP,
                             "eyes": Eyes.ONE, **changes})  # type: ignore[arg-type]  # fmt: skip
    return draw_scene(character, setting, SIZES[0], Random(3))[0]


def differing(one: Image.Image, other: Image.Image) -> float:
    """Which part of the pixels differs so that one sees it."""
    apart = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max(axis=2)
    return float((apart > 24).mean())


def test_the_same_seed_draws_the_same_story() -> None:
    one, again, other = story(5, seed=1), story(5, seed=1), story(5, seed=2)
    assert one == again
    assert one.draw_plain().tobytes() == again.draw_plain().tobytes()
    assert [each.tobytes() for each in one.draw_scenes()] == [
        each.tobytes() for each in again.draw_scenes()
    ]
    assert one != other


@pytest.mark.parametrize("number", range(9))
def test_a_story_shows_one_character_alone_and_in_several_settings(number: int) -> None:
    told = story(number, seed=0)
    assert len(set(told.settings)) == SCENES
    assert told.draw_plain().size == told.plain_size
    assert {each.size for each in told.draw_scenes()} == {told.scene_size}
    assert told.plain_size in SIZES
    assert told.scene_size in SIZES


def test_a_story_tells_where_its_character_stands() -> None:
    told = story(4, seed=0)
    drawn = [
        draw_scene(told.character, setting, told.scene_size, told._chance(setting))[1]
        for setting in told.settings
    ]
    assert told.places() == drawn


def test_stories_have_all_pairs_of_sizes() -> None:
    pairs = {(told.plain_size, told.scene_size) for told in (story(n, seed=0) for n in range(9))}
    assert len(pairs) == len(SIZES) ** 2


def test_all_sizes_are_of_whole_tokens() -> None:
    assert all(side % PART == 0 and side >= 128 for size in SIZES for side in size)
    assert {(width > height) - (width < height) for width, height in SIZES} == {-1, 0, 1}


@pytest.mark.parametrize("setting", list(Setting))
def test_no_two_settings_look_alike(setting: Setting) -> None:
    others = [each for each in Setting if each is not setting]
    assert all(differing(scene(setting), scene(other)) > 0.1 for other in others)


@pytest.mark.parametrize(
    "change",
    [{"hue": 200.0}, {"shape": Shape.STAR}, {"hat": Hat.CROWN}, {"hat": Hat.NONE},
     {"eyes": Eyes.TWO}],
)  # fmt: skip
def test_every_trait_shows(change: dict[str, object]) -> None:
    assert 0.005 < differing(scene(Setting.SNOW), scene(Setting.SNOW, **change)) < 0.3


def test_a_reference_stands_on_a_plain_pale_ground() -> None:
    for seed in range(20):
        pixels = np.asarray(draw_plain(BLUE_STAR, SIZES[seed % 3], Random(seed)))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == edge[0]).all()
        assert edge[0].min() >= 226


@pytest.mark.parametrize("size", SIZES)
def test_a_body_is_whole_inside_the_picture(size: tuple[int, int]) -> None:
    for seed in range(200):
        chance = Random(seed)
        for place in (scene_place(chance, size, 0.6), plain_place(chance, size)):
            assert 0.55 * place.size <= place.x <= size[0] - 0.55 * place.size
            assert place.y <= size[1]
            assert place.y - 1.06 * place.size >= 0


def test_seeds_differ_in_place_and_size() -> None:
    places = [draw_scene(BLUE_STAR, Setting.SEA, SIZES[0], Random(seed))[1] for seed in range(30)]
    for name, least in (("x", 8), ("y", 4), ("size", 3)):
        assert np.std([getattr(place, name) for place in places]) > least


def test_one_in_eight_combinations_is_held_out_and_never_taught() -> None:
    chance = Random(0)
    assert not any(draw_character(chance).held_out for _ in range(300))
    assert all(draw_character(chance, held_out=True).held_out for _ in range(50))
    everybody = [
        Character(hue=hue, shape=shape, hat=hat, eyes=eyes).held_out
        for hue in range(0, 360, 15)
        for shape in Shape
        for hat in Hat
        for eyes in Eyes
    ]
    assert 0.8 / HELD_OUT_ONE_IN < np.mean(everybody) < 1.2 / HELD_OUT_ONE_IN


def test_hues_close_to_each_other_across_red_are_close() -> None:
    assert hue_distance(358, 3) == 5
    assert hue_distance(90, 270) == 180
    assert Character(hue=357, shape=Shape.STAR, hat=Hat.CAP, eyes=Eyes.ONE).hue_name == "red"
