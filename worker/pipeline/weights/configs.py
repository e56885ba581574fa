"""Read a model's config.json within bounds: it comes from wherever the weights come from."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 1024 * 1024  # a model's own has a few hundred
MOST_LAYERS = 512  # FLUX has 57, T5-XXL 24
MOST_WIDE = 2**20  # numbers in a row, or words


def read_config(config: Path, *, most_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON table; raises FileNotFoundError, OSError, or ValueError for anything else."""
    found = _parsed(read_text(config, most_bytes=most_bytes))
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    return found


def read_text(config: Path, *, most_bytes: int = MAX_BYTES) -> str:
    """Read a file of UTF-8, as all loaders do; raises as `read_config` does."""
    if config.exists() and not config.is_file():
        raise ValueError("it is no regular file")  # to open a pipe would wait for ever
    if config.stat().st_size > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    return config.read_bytes().decode()


def layers(config: dict[str, Any], key: str) -> int:
    """Read how many layers there are; raises KeyError, or ValueError beyond MOST_LAYERS."""
    return _bounded(config, key, MOST_LAYERS)


def width(config: dict[str, Any], key: str) -> int:
    """Read a size; raises KeyError, or ValueError beyond MOST_WIDE."""
    return _bounded(config, key, MOST_WIDE)


def _bounded(config: dict[str, Any], key: str, most: int) -> int:
    value = config[key]
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{key} is {value!r:.40}, not a whole number up to {most}")
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
