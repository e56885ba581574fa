"""Read pictures that strangers send: limits first, pixels after, nothing but pixels kept."""

import io
import struct
import threading
import warnings
from typing import NoReturn

from PIL import Image, ImageOps

from shared.errors import InvalidReference

MAX_BYTES = 10 * 1024 * 1024
MAX_SIDE = 4096
MAX_PIXELS = 4096 * 4096  # 16.8 megapixels
FORMATS = ("PNG", "JPEG", "WEBP")
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


def read_picture(data: bytes) -> Image.Image:
    """Decode a PNG, JPEG or WebP into upright RGB without metadata; alpha goes onto white.

    Raises InvalidReference naming the limit that is broken, before any pixel is decoded.
    """
    if len(data) > MAX_BYTES:
        _refuse(f"the file has {len(data)} bytes, more than {MAX_BYTES} (10 MB)")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # Pillow's WebP reader reserves the whole canvas as soon as it opens a file
        _check_size(*_webp_size(data))
    with _reading, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(data)


def normalise(data: bytes) -> tuple[bytes, int, int]:
    """Decode and encode again as PNG without metadata; return its bytes, width and height.

    The same pixels give the same bytes. Raises InvalidReference as `read_picture` does.
    """
    picture = read_picture(data)
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=COMPRESSION)
    return file.getvalue(), picture.width, picture.height


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
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image  # many cameras write broken metadata; the pixels are still good


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # sixteen bits: a plain conversion would cut them off at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")
