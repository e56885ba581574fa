"""Read pictures that strangers send: limits first, pixels after, nothing but pixels kept."""

import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from PIL import Image, ImageOps

from shared.errors import InvalidReference, StoreUnavailable

MAX_BYTES = 10 * 1024 * 1024
MAX_SIDE = 4096
MAX_PIXELS = 4096 * 4096  # 16.8 megapixels
FORMATS = ("PNG", "JPEG", "WEBP")
# A progressive JPEG is decoded scan by scan, each one all over the picture: 25 ms at the limits.
# Real files have 10 to 20.
MAX_SCANS = 64
MAX_SEGMENTS = 4096  # all of 10 MB in segments of the usual 64 KB are 160
PATIENCE = 5.0  # seconds that an upload waits for those that are being read
# Measured at 1024 x 1024: level 6 takes twice as long for 4 % less.
COMPRESSION = 4

# Whatever Pillow raises on broken bytes: its own errors are OSErrors, its parsers raise the rest.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    NotImplementedError,
    struct.error,
)
# One at a time: a picture at the limits takes 200 MB while it is read, and warnings can only be
# silenced for a whole process.
_reading = threading.Lock()


def read_picture(data: bytes, *, patience: float = PATIENCE) -> Image.Image:
    """Decode an upload: as `read_stored` does, and of limited bytes besides."""
    if len(data) > MAX_BYTES:
        _refuse(f"the file has {len(data)} bytes, more than {MAX_BYTES} (10 MB)")
    return read_stored(data, patience=patience)


def read_stored(data: bytes, *, patience: float = PATIENCE) -> Image.Image:
    """Decode a PNG, JPEG or WebP into upright RGB without metadata; alpha goes onto white.

    Raises InvalidReference naming the limit that is broken, before any pixel is decoded, and
    StoreUnavailable if others are being read for longer than `patience` seconds.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # Pillow's WebP reader reserves the whole canvas as soon as it opens a file
        _check_size(*_webp_size(data))
    if data[:2] == b"\xff\xd8":
        _check_scans(data)
    with _alone(patience), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(data)


def normalise(data: bytes, *, patience: float = PATIENCE) -> tuple[bytes, int, int]:
    """Decode and encode again as PNG without metadata; return its bytes, width and height.

    The same pixels give the same bytes. Raises what `read_picture` does.
    """
    picture = read_picture(data, patience=patience)
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=COMPRESSION)
    return file.getvalue(), picture.width, picture.height


@contextmanager
def _alone(patience: float) -> Iterator[None]:
    if not _reading.acquire(timeout=patience):
        raise StoreUnavailable("other pictures are being read; send it again in a moment")
    try:
        yield
    finally:
        _reading.release()


def _refuse(reason: str) -> NoReturn:
    raise InvalidReference(f"{reason}; send a PNG, JPEG or WebP of at most {MAX_SIDE} per side")


def _decode(data: bytes) -> Image.Image:
    try:
        # the formats are given: Pillow knows forty more, and their parsers
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InvalidReference(f"more than {MAX_PIXELS} pixels; send a smaller one") from None
    except _BROKEN:
        raise InvalidReference("not a PNG, JPEG or WebP that can be read; save it again") from None
    _check_size(*image.size)
    # a JPEG may carry a preview as a second frame; only pictures that move are refused
    if getattr(image, "is_animated", False) and image.format != "MPO":
        _refuse("it has more than one frame")
    try:
        image.load()
    except _BROKEN:
        raise InvalidReference("the picture is damaged or cut short; save it again") from None
    flat = _flatten(_upright(image))
    flat.info.clear()
    return flat


def _check_size(width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        _refuse(f"it is {width} x {height} pixels, more than {MAX_SIDE} per side")


# What begins a segment of a JPEG. Within coded pixels 0xFF is stuffed or a restart; the markers
# below have no length, and where the decoder looks for a restart it steps over them.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_EOI, _SOS = 0xD9, 0xDA


def _check_scans(data: bytes) -> None:
    """Count the scans as the decoder will meet them; a preview within the metadata has its own."""
    scans, at = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[1][0] == _EOI:
            return
        scans += found[1][0] == _SOS
        if scans > MAX_SCANS:
            _refuse(f"the JPEG has more than {MAX_SCANS} scans")
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    _refuse(f"the JPEG has {MAX_SEGMENTS} segments or more")


def _webp_size(data: bytes) -> tuple[int, int]:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        _refuse("the WebP is cut short")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind != b"VP8 ":
        _refuse("not a WebP that can be read")
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _upright(image: Image.Image) -> Image.Image:
    with suppress(*_BROKEN):  # many cameras write broken metadata; the pixels are still good
        ImageOps.exif_transpose(image, in_place=True)  # else it copies what is upright already
    return image


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # sixteen bits: a plain conversion would cut them off at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", layered.size, "white")
    white.paste(layered, mask=layered)
    return white
