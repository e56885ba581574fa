"""What captions say, and that the tokenizers know every word of them."""

from random import Random

import pytest

from worker.pipeline.artist.captions import (
    TEXT_TOKENS,
    describe,
    draw_caption,
    say_setting,
    vocabulary,
)
from worker.pipeline.artist.characters import Setting, draw_character, pick
from worker.pipeline.artist.flow_training import Tokenizers, make_tokenizers
from worker.pipeline.artist.words import t5_artist_words, t5_twins
from worker.pipeline.tiny_shapes import CLIP_LENGTH

LOOKS = {"red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "star",
         "triangle", "square", "round", "eye", "eyes", "hat", "cap", "crown"}  # fmt: skip
# Of settings: what only those that it is listed for may say.
SAYINGS = {
    "night": {Setting.NIGHT, Setting.FOREST_NIGHT, Setting.SEA_NIGHT, Setting.DESERT_NIGHT,
              Setting.SNOW_NIGHT},
    "forest": {Setting.FOREST, Setting.FOREST_NIGHT},
    "sea": {Setting.SEA, Setting.SEA_NIGHT},
    "cactus": {Setting.DESERT, Setting.DESERT_NIGHT},
    "snow": {Setting.SNOW, Setting.SNOW_NIGHT},
    "rain": {Setting.RAIN},
    "room": {Setting.ROOM},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    return make_tokenizers(tmp_path_factory.mktemp("words"))


def captions(count: int, *, referenced: bool) -> list[str]:
    chance = Random(4)
    return [
        draw_caption(
            draw_character(chance), pick(chance, list(Setting)), chance, referenced=referenced
        )
        for _ in range(count)
    ]


def test_the_same_chance_says_the_same() -> None:
    assert captions(20, referenced=True) == captions(20, referenced=True)


def test_with_a_reference_the_look_is_hardly_ever_said() -> None:
    speaking = [LOOKS & set(each.split()) for each in captions(400, referenced=True)]
    # meadows are green and seas are blue, whoever is in them
    assert sum(len(words) > 2 for words in speaking) < 70


def test_without_a_reference_all_of_the_look_is_said() -> None:
    chance = Random(1)
    for _ in range(50):
        character = draw_character(chance)
        said = describe(character, chance)
        assert character.hue_name in said
        assert " eye" in said
        assert "hat" in said or "cap" in said or "crown" in said or "head" in said


@pytest.mark.parametrize("word", list(SAYINGS))
def test_a_place_is_named_only_where_it_is(word: str) -> None:
    chance = Random(2)
    saying = {
        setting
        for setting in Setting
        for _ in range(300)
        if word in say_setting(setting, chance).split()
    }
    assert saying == SAYINGS[word]


@pytest.mark.parametrize("setting", list(Setting))
def test_a_setting_has_synonyms(setting: Setting) -> None:
    chance = Random(3)
    assert len({say_setting(setting, chance) for _ in range(300)}) >= 6


def test_no_caption_is_longer_than_what_is_read(tokenizers: Tokenizers) -> None:
    for referenced in (True, False):
        said = captions(1500, referenced=referenced)
        assert max(map(len, tokenizers.t5(said).input_ids)) <= TEXT_TOKENS
        assert max(map(len, tokenizers.clip(said).input_ids)) <= CLIP_LENGTH


def test_every_word_is_one_token_of_either_tokenizer(tokenizers: Tokenizers) -> None:
    for word in filter(str.isalpha, vocabulary()):
        assert len(tokenizers.t5.tokenize(word)) == 1
        assert tokenizers.clip.tokenize(word) == [f"{word}</w>"]


def test_a_strange_word_leaves_its_neighbours_as_they_are(tokenizers: Tokenizers) -> None:
    found = tokenizers.t5.tokenize("Mia naps in the forest, quietly")
    assert [word for word in found if word in t5_artist_words() and len(word) > 1] == [
        "▁in", "▁the", "▁forest",
    ]  # fmt: skip


@pytest.mark.parametrize("spelled", ["In The Forest", "IN THE FOREST", "in The FOREST"])
def test_capitals_mean_what_small_letters_mean(tokenizers: Tokenizers, spelled: str) -> None:
    small, capital = (tokenizers.t5(text).input_ids for text in ("in the forest", spelled))
    assert small != capital
    assert [t5_twins()[number] for number in capital] == small
    assert [t5_twins()[number] for number in small] == small
