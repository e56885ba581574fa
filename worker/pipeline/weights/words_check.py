"""Decide from their files whether both tokenizers give words that the text encoders have."""

from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import WeightsDamaged, WeightsMissing
from worker.pipeline.weights.configs import read_config, read_text
from worker.pipeline.weights.fields import read_fields, whole
from worker.pipeline.weights.unigram import read_vocabulary

MOST_BYTES = 16 * 2**20  # T5's tokenizer.json has 2.4 MB
MOST_EXTRA = 1_000  # words that stand for gaps; T5 has a hundred
MOST_LONG = 65_536  # words of a prompt; T5 is asked for 512
CONFIGURED, MAPPED = "tokenizer_config.json", "special_tokens_map.json"
CLIP_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
T5_SPECIAL = ("eos_token", "pad_token", "unk_token")

Read = TypeVar("Read")


def check_clip_words(folder: Path, *, words: int, places: int) -> None:
    """Refuse a tokenizer of CLIP that cannot be read, or has words or a length that CLIP has not.

    Raises WeightsMissing or WeightsDamaged naming the file, what is wrong with it and the remedy.
    """
    vocabulary = _understood(folder / "vocab.json", lambda file: _clip_vocabulary(file, words))
    _understood(folder / "merges.txt", lambda file: _check_merges(file, vocabulary))
    # prompts are filled up to this length, which costs memory and has to have places
    _check_special(folder, CLIP_SPECIAL, vocabulary, longest=places)


def check_t5_words(folder: Path, *, words: int) -> None:
    """Refuse a tokenizer of T5 that cannot be read, or has words that T5 has not.

    Raises WeightsMissing or WeightsDamaged naming the file, what is wrong with it and the remedy.
    """
    vocabulary = _understood(
        folder / "tokenizer.json", lambda file: read_vocabulary(_table(file), words=words)
    )
    _check_special(folder, T5_SPECIAL, vocabulary, longest=MOST_LONG)
    extra = {"extra_ids": whole(0, MOST_EXTRA, default=100)}
    _understood(folder / CONFIGURED, lambda file: read_fields(_table(file), extra))


def _understood(file: Path, read: Callable[[Path], Read]) -> Read:
    try:
        return read(file)
    except FileNotFoundError:
        raise WeightsMissing(f"{file}: not there; copy it from FLUX.1-Kontext-dev") from None
    except (ValueError, OSError) as error:
        raise WeightsDamaged(
            f"{file}: no tokenizer's ({error}); copy it from FLUX.1-Kontext-dev"
        ) from None


def _table(file: Path) -> dict[str, Any]:
    return read_config(file, most_bytes=MOST_BYTES)


# --- CLIP -----------------------------------------------------------------------------------------


def _clip_vocabulary(file: Path, words: int) -> Mapping[str, int]:
    found = _table(file)
    for word, number in found.items():
        if type(number) is not int or not 0 <= number < words:
            raise ValueError(
                f"{word!r:.40} is {number!r:.40}, expected a number below {words}, which is "
                "CLIP's vocab_size"
            )
    return found


def _check_merges(file: Path, vocabulary: Container[str]) -> None:
    for line in read_text(file, most_bytes=MOST_BYTES).splitlines():
        if line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or any(each not in vocabulary for each in (*parts, "".join(parts))):
            raise ValueError(f"line {line!r:.60} joins no two words of vocab.json to a third")


# --- both -----------------------------------------------------------------------------------------


def _check_special(
    folder: Path, names: tuple[str, ...], vocabulary: Mapping[str, int], *, longest: int
) -> None:
    """Look at what both files say of special words: which of them is heeded depends on others."""
    configured = _understood(folder / CONFIGURED, _table)

    def check_length(_: Path) -> None:
        read_fields(configured, {"model_max_length": whole(1, longest)})

    _understood(folder / CONFIGURED, check_length)
    mapped = _understood(folder / MAPPED, _table) if (folder / MAPPED).exists() else {}
    for file, said in ((folder / CONFIGURED, configured), (folder / MAPPED, mapped)):
        for name in names:
            if name in said:
                _understood(file, partial(_check_word, name, said[name], vocabulary))


def _check_word(name: str, value: Any, vocabulary: Container[str], _: Path) -> None:
    word = value.get("content") if isinstance(value, dict) else value
    if not isinstance(word, str) or word not in vocabulary:
        raise ValueError(f"{name} is {value!r:.60}, expected a word of the vocabulary")
