"""The example story is told in words and sizes that the artist was taught."""

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from worker.pipeline.artist.captions import TEXT_TOKENS, vocabulary
from worker.pipeline.artist.drawings import SIZES

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {"mia"}


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    return dict(yaml.safe_load((EXAMPLES / "storm.yaml").read_text()))


def test_its_words_are_those_of_the_captions(story: dict[str, Any]) -> None:
    for scene in story["scenes"]:
        words = re.findall(r"[a-z]+", scene["prompt"].lower())
        assert {*words} <= {*vocabulary(), *NAMES}, scene["key"]
        assert len(words) < TEXT_TOKENS


def test_its_sizes_are_those_of_the_training(story: dict[str, Any]) -> None:
    wanted = [{**story["defaults"], **scene} for scene in story["scenes"]]
    assert {(scene["width"], scene["height"]) for scene in wanted} == {*SIZES}


def test_its_character_is_drawn_by_its_script_and_was_never_shown() -> None:
    made = runpy.run_path(str(EXAMPLES / "make_mia.py"))
    assert made["MIA"].held_out
    drawn = made["draw_plain"](made["MIA"], SIZES[0], made["Random"]("Mia"))
    assert np.array_equal(np.asarray(drawn), np.asarray(Image.open(EXAMPLES / "mia.png")))
