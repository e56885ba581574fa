"""Tokenizers that know the words of the captions: one token for each, unknown ones fall apart."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

from worker.pipeline.artist.captions import vocabulary
from worker.pipeline.tiny_tokenizers import (
    END,
    START,
    clip_words,
    write_clip_tokenizer,
    write_t5_tokenizer,
)

_SPACE = "▁"
_MARKS = (",", ".", "!", "-", "?", ":", ";", "'")
_ENDING = "</w>"
Merge = tuple[str, str]


@cache
def t5_artist_words() -> tuple[str, ...]:
    """List T5's vocabulary: the special ones, the space, marks, and words in three spellings."""
    words = [word for word in vocabulary() if word.isalpha()]
    capital = [word.capitalize() for word in words]
    spelled = dict.fromkeys([*words, *capital, *map(str.upper, words)])  # "A" is two of them
    return ("<pad>", "</s>", "<unk>", _SPACE, *_MARKS, *(f"{_SPACE}{word}" for word in spelled))


@cache
def t5_twins() -> tuple[int, ...]:
    """Tell for each word of T5 the number of the one that it means: capitals mean small letters.

    Captions have no capitals, and the tokenizer keeps those that a prompt has.
    """
    numbers = {word: number for number, word in enumerate(t5_artist_words())}
    return tuple(numbers.get(word.lower(), at) for at, word in enumerate(t5_artist_words()))


@cache
def clip_merges() -> tuple[Merge, ...]:
    """Choose merges that make each word of the captions one token, most frequent pair first."""
    spelled = [[*word[:-1], word[-1] + _ENDING] for word in vocabulary() if word.isalpha()]
    merges: list[Merge] = []
    while pairs := Counter(pair for word in spelled for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelled = [_merged(word, best) for word in spelled]
    return tuple(merges)


@cache
def clip_artist_words() -> tuple[str, ...]:
    """List CLIP's vocabulary: bytes as the tiny one has them, what merges make, start and end."""
    letters = clip_words()[:-2]
    made = dict.fromkeys(one + other for one, other in clip_merges())
    return (*letters, *made, START, END)


def write_tokenizers(clip: Path, t5: Path, *, clip_length: int, t5_length: int) -> None:
    """Write both tokenizers into folders of their own."""
    write_clip_tokenizer(clip, length=clip_length)
    words = {word: number for number, word in enumerate(clip_artist_words())}
    _write(clip / "vocab.json", words)
    merges = "".join(f"{one} {other}\n" for one, other in clip_merges())
    (clip / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    write_t5_tokenizer(t5, length=t5_length)
    tokenizer = json.loads((t5 / "tokenizer.json").read_text(encoding="utf-8"))
    scores = [[word, 0.0 if at < 3 else -5.0] for at, word in enumerate(t5_artist_words())]
    tokenizer["model"]["vocab"] = scores
    _write(t5 / "tokenizer.json", tokenizer)


def _merged(word: list[str], pair: Merge) -> list[str]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
