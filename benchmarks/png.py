"""Encode pictures of 1024 x 1024 as PNG: what illo does beside faster and smaller ways."""

import importlib
import io
import struct
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.report import Figure
from shared.scenes import ImageFormat, Scene, Weights
from worker.images import ImageRecipe, encode_image

SIDE = 1024
RUNS = 5
SEED = 7
RECIPE = ImageRecipe(
    scene=Scene(
        prompt="Mia under the bed",
        width=SIDE,
        height=SIDE,
        steps=28,
        guidance=2.5,
        seed=SEED,
        weights=Weights(label="none", sha256="0" * 64),
    ),
    seed=SEED,
    recipe="0" * 64,
    illo_version="0",
)

Pixels = NDArray[np.uint8]
Encoder = Callable[[Pixels], bytes]


def measure(folder: Path) -> list[Figure]:
    """Time every encoder on every picture; sizes are told against Pillow's level 4."""
    figures = []
    for name, pixels in _pictures().items():
        sizes: dict[str, int] = {}
        for way, encode in _encoders().items():
            seconds, content = min((_timed(encode, pixels) for _ in range(RUNS)), key=_seconds)
            decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            assert np.array_equal(decoded, pixels), way
            sizes[way] = len(content)
            figures.append(
                Figure(
                    what=f"{name}: {way}", value=seconds * 1000, unit="ms",
                    ratio=len(content) / sizes["Pillow, level 4"],
                    against=f"÷ the bytes of level 4; {len(content) / 1000:,.0f} KB",
                )
            )  # fmt: skip
    return figures


def _timed(encode: Encoder, pixels: Pixels) -> tuple[float, bytes]:
    began = time.perf_counter()
    content = encode(pixels)
    return time.perf_counter() - began, content


def _seconds(timed: tuple[float, bytes]) -> float:
    return timed[0]


def _encoders() -> dict[str, Encoder]:
    """List the ways to encode; isal and fpng only where somebody has installed them."""
    ways: dict[str, Encoder] = {
        "Pillow, level 4": _with_pillow(compress_level=4),
        "Pillow, level 6": _with_pillow(compress_level=6),
        "Pillow, level 1": _with_pillow(compress_level=1),
        "illo (Pillow, runs only)": _as_illo_does,
        "average filter, zlib 1": lambda pixels: _by_hand(
            pixels, lambda raw: zlib.compress(raw.data, 1)
        ),
    }
    if find_spec("isal"):
        isal = importlib.import_module("isal.isal_zlib")
        ways["average filter, isal 1"] = lambda pixels: _by_hand(
            pixels, lambda raw: bytes(isal.compress(raw.data, 1))
        )
    if find_spec("fpng"):
        ways["fpng"] = importlib.import_module("fpng").from_ndarray
    return ways


def _as_illo_does(pixels: Pixels) -> bytes:
    return encode_image(Image.fromarray(pixels), format=ImageFormat.PNG, recipe=RECIPE)


def _with_pillow(**options: int) -> Encoder:
    def encode(pixels: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", **options)
        return file.getvalue()

    return encode


def _by_hand(pixels: Pixels, compress: Callable[[Pixels], bytes]) -> bytes:
    """Write a PNG of our own, every row less the mean of its left and its upper neighbour."""
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    body = compress(_less_the_average(pixels.reshape(SIDE, -1)))
    chunks = _chunk(b"IHDR", head), _chunk(b"IDAT", body), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _less_the_average(rows: Pixels) -> Pixels:
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 3:], above[1:] = rows[:, :-3], rows[:-1]
    filtered = np.empty((SIDE, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 3  # the filter's number in PNG
    # the mean of two bytes, rounded down, without a wider type
    np.subtract(rows, (left & above) + ((left ^ above) >> 1), out=filtered[:, 1:])
    return filtered


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def painted(chance: np.random.Generator) -> Pixels:
    """Make a picture of soft shapes with some grain."""
    soft = np.asarray(_shapes(chance).filter(ImageFilter.GaussianBlur(2)))
    return _clipped(soft + _clouds(chance, {128: 4}), chance, 0.8)


def _pictures() -> dict[str, Pixels]:
    chance = np.random.default_rng(SEED)
    return {
        "photo-like": _clipped(_clouds(chance, {4: 50, 16: 20, 64: 10, 256: 6}) + 128, chance, 2.0),
        "painted": painted(chance),
        "smooth": _clipped(_clouds(chance, {3: 60, 9: 25}) + 128, chance, 0.0),
        "flat shapes": np.asarray(_shapes(chance)),
        "noise": chance.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
    }  # fmt: skip


def _clipped(light: NDArray[np.float64], chance: np.random.Generator, grain: float) -> Pixels:
    grained = light + chance.normal(0, grain, light.shape) if grain else light
    return np.clip(grained, 0, 255).astype(np.uint8)


def _clouds(chance: np.random.Generator, weights: dict[int, float]) -> NDArray[np.float64]:
    """Sum smooth noise of several sizes; a weight is the deviation of one size."""
    clouds = np.zeros((SIDE, SIDE, 3))
    for size, weight in weights.items():
        small = chance.standard_normal((3, size, size), dtype=np.float32)
        for channel in range(3):
            large = Image.fromarray(small[channel]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            clouds[..., channel] += weight * np.asarray(large)
    return clouds


def _shapes(chance: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for y in range(SIDE):
        draw.line((0, y, SIDE, y), fill=(30 + y // 8, 60 + y // 10, 120 + y // 12))
    for _ in range(40):
        x, y, radius = (int(n) for n in chance.integers((0, 0, 20), (SIDE, SIDE, 200)))
        red, green, blue = (int(n) for n in chance.integers(0, 255, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(red, green, blue))
    return image
