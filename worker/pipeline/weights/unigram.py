"""The tokenizer.json of a T5: its words, and whether the library will take it for what it is."""

import math
from collections.abc import Mapping
from typing import Any

from worker.pipeline.weights.fields import Field, flag, only, read_fields, whole

# The steps of each section; one of several steps has them in the list that is named.
STEPS = {
    "normalizer": (("Precompiled", "Replace", "Strip", "NFC", "NFKC", "Nmt"), "normalizers"),
    "pre_tokenizer": (("Metaspace", "WhitespaceSplit", "Whitespace"), "pretokenizers"),
    "post_processor": (("TemplateProcessing",), "processors"),
    "decoder": (("Metaspace", "Replace", "Strip", "Fuse", "ByteFallback"), "decoders"),
}
SECTIONS = frozenset({"version", "truncation", "padding", "added_tokens", "model", *STEPS})
CUTTING = {
    "truncation": ("max_length", "strategy", "stride"),
    "padding": ("strategy", "pad_id", "pad_type_id", "pad_token"),
}


def read_vocabulary(found: Mapping[str, Any], *, words: int) -> dict[str, int]:
    """Give each word its number; raises ValueError unless this is a T5's, of so many words."""
    read_fields(found, {"version": only("1.0")})
    for name in found:
        if name not in SECTIONS:
            raise ValueError(f"it has {name!r:.40}, which is no section of such a file")
    for section in STEPS:
        if found.get(section) is not None:
            _check_step(section, found[section])
    for section, names in CUTTING.items():
        value = found.get(section)
        if value is not None and not (isinstance(value, dict) and value.keys() >= set(names)):
            raise ValueError(f"{section} is {value!r:.60}, expected a table of {', '.join(names)}")
    model = found.get("model")
    if not isinstance(model, dict):
        raise ValueError(f"model is {model!r:.60}, expected a table")
    # old files do not say it, and the library takes them for what they are
    kind = only("Unigram", default="Unigram")
    read_fields(model, {"type": kind, "byte_fallback": flag(default=False)})
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not all(map(_is_piece, pieces)):
        raise ValueError("the vocab of its model is no list of words and scores")
    read_fields(model, {"unk_id": whole(0, len(pieces) - 1)})
    numbers = {word: number for number, (word, _) in enumerate(pieces)} | _added(found)
    most = max(numbers.values())
    if most >= words:
        raise ValueError(f"it has word {most}, expected all below T5's vocab_size, {words}")
    return numbers


def _check_step(section: str, step: Any) -> None:
    kinds, several = STEPS[section]
    if not isinstance(step, dict):
        raise ValueError(f"{section} is {step!r:.60}, expected a table")
    read_fields(step, {"type": only("Sequence", *kinds)})
    if step["type"] == "Sequence":
        if not isinstance(step.get(several), list):
            raise ValueError(f"{several} is {step.get(several)!r:.60}, expected a list")
        for each in step[several]:
            _check_step(section, each)
    else:
        read_fields(step, DETAILS.get(step["type"], {}))


def _is_piece(piece: object) -> bool:
    if not isinstance(piece, list) or len(piece) != 2:
        return False
    word, score = piece
    return isinstance(word, str) and type(score) in (int, float) and math.isfinite(score)


def _added(found: Mapping[str, Any]) -> dict[str, int]:
    added = found.get("added_tokens")
    if not isinstance(added, list) or not all(map(_is_added, added)):
        raise ValueError("added_tokens is no list of words and their numbers")
    return {each["content"]: each["id"] for each in added}


def _is_added(each: Any) -> bool:
    return (
        isinstance(each, dict)
        and type(each.get("id")) is int
        and each["id"] >= 0
        and isinstance(each.get("content"), str)
    )


def _is_template(pieces: Any) -> bool:
    return isinstance(pieces, list) and all(map(_is_place, pieces))


def _is_place(piece: Any) -> bool:
    if not isinstance(piece, dict) or len(piece) != 1:
        return False
    [(kind, said)] = piece.items()
    return (
        kind in ("SpecialToken", "Sequence")
        and isinstance(said, dict)
        and isinstance(said.get("id"), str)
        and type(said.get("type_id")) is int
    )


_TEMPLATE = Field("a list of SpecialToken and Sequence", _is_template)
_TABLE = Field("a table", lambda value: isinstance(value, dict))
_TEXT = Field("text", lambda value: isinstance(value, str))
_CHARACTER = Field("one character", lambda value: isinstance(value, str) and len(value) == 1)

DETAILS = {
    "Metaspace": {
        "replacement": _CHARACTER,
        "prepend_scheme": only("always", "never", "first", default="always"),
        "split": flag(default=True),
    },
    "Precompiled": {"precompiled_charsmap": _TEXT},
    "TemplateProcessing": {"single": _TEMPLATE, "pair": _TEMPLATE, "special_tokens": _TABLE},
}
