"""Tokenizers for the tiny weights: one token per letter, nothing to download."""

import json
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
# Latin, Greek and Cyrillic; T5 sees other scripts as unknown, CLIP still reads their bytes.
_LETTERS = [chr(code) for code in range(0x21, 0x500) if chr(code).isprintable()]
_SPACE = "\u2581"


def clip_words() -> list[str]:
    """List CLIP's vocabulary: each byte within a word, each at its end, then start and end."""
    letters = [*_byte_letters().values()]
    return [*letters, *(f"{letter}</w>" for letter in letters), START, END]


def t5_words() -> list[str]:
    """List T5's vocabulary; the first three are padding, end and unknown, as T5 expects."""
    return ["<pad>", "</s>", "<unk>", _SPACE, *_LETTERS]


def write_clip_tokenizer(directory: Path, *, length: int) -> None:
    """Write the four files of a CLIP tokenizer."""
    words = {word: number for number, word in enumerate(clip_words())}
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    _write(directory / "vocab.json", words)
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write(directory / "special_tokens_map.json", special)
    config = {"model_max_length": length, "tokenizer_class": "CLIPTokenizer"}
    _write(directory / "tokenizer_config.json", config | special)


def write_t5_tokenizer(directory: Path, *, length: int) -> None:
    """Write the three files of a T5 tokenizer: a unigram model whose pieces are letters."""
    words = t5_words()
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    metaspace = {
        "type": "Metaspace",
        "replacement": _SPACE,
        "prepend_scheme": "always",
        "split": True,
    }
    scores = [[word, 0.0 if number < 3 else -5.0] for number, word in enumerate(words)]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, words[number]) for number in range(3)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                end,
                {"Sequence": {"id": "B", "type_id": 0}},
                end,
            ],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": scores, "byte_fallback": False},
    }
    _write(directory / "tokenizer.json", tokenizer)
    _write(directory / "special_tokens_map.json", special)
    config = {"extra_ids": 0, "model_max_length": length, "tokenizer_class": "T5Tokenizer"}
    _write(directory / "tokenizer_config.json", config | special)


def _byte_letters() -> dict[int, str]:
    # byte-level BPE writes each byte as a visible letter: printable Latin-1 as itself, the rest
    # from U+0100 upwards, in order
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    return letters | {byte: chr(0x100 + index) for index, byte in enumerate(hidden)}


def _added(number: int, word: str) -> dict[str, object]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": word, "special": True} | plain


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
