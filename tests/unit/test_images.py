"""Pictures that come in, with limits on both sides; images that go out, with their recipe."""

import contextlib
import io
import json
import struct
import threading
import warnings
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw

from shared.errors import InvalidReference, StoreUnavailable
from shared.pictures import MAX_BYTES, MAX_SCANS, MAX_SEGMENTS, MAX_SIDE, normalise, read_picture
from shared.scenes import ImageFormat, Reference, Scene, Weights
from worker.images import DESCRIPTION_TAG, ImageRecipe, decode_reference, encode_image

FORMATS = ("PNG", "JPEG", "WEBP")


def a_picture(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    picture = Image.new(mode, (width, height))
    ImageDraw.Draw(picture).rectangle((0, 0, width // 2, height // 2), fill="white")
    return picture


def saved(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=format, **options)
    return file.getvalue()


def a_recipe(prompt: str = "Mia wakes up", references: int = 0) -> ImageRecipe:
    scene = Scene(
        prompt=prompt,
        width=48,
        height=32,
        steps=4,
        guidance=2.5,
        seed=7,
        count=2,
        references=tuple(
            Reference(
                asset="ast", sha256=str(i) * 64, artifact="a", generation=1, width=8, height=8
            )
            for i in range(references)
        ),
        weights=Weights(label="tiny", sha256="e" * 64),
    )
    return ImageRecipe(scene=scene, seed=8, recipe="f" * 64, illo_version="0.1.0")


def refused(data: bytes) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidReference) as caught:
            read_picture(data)
    return str(caught.value)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def webp_of(width: int, height: int) -> bytes:
    """An extended WebP header that claims a canvas, and nothing else."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("format_", FORMATS)
def test_each_format_is_read(format_: str) -> None:
    picture = decode_reference(saved(a_picture(), format_))
    assert (picture.mode, picture.size) == ("RGB", (48, 32))


@pytest.mark.parametrize("format_", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(format_: str) -> None:
    assert "not a PNG, JPEG or WebP" in refused(saved(a_picture(), format_))


@pytest.mark.parametrize("data", [b"", b"x", b"RIFF", b"RIFF\0\0\0\0WEBP", b"<svg/>", bytes(99)])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    refused(data)


def test_bytes_have_a_limit() -> None:
    whole = saved(a_picture())
    assert read_picture(whole + bytes(MAX_BYTES - len(whole))).size == (48, 32)
    assert "10 MB" in refused(whole + bytes(MAX_BYTES - len(whole) + 1))


def test_what_was_stored_of_a_photo_may_be_larger_than_an_upload() -> None:
    stored = saved(Image.effect_noise((2048, 2048), 200).convert("RGB"), compress_level=0)
    assert len(stored) > MAX_BYTES
    assert decode_reference(stored).size == (2048, 2048)
    assert "10 MB" in refused(stored)


def jpeg_of(scans: int, *, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated until there are so many."""
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    whole = saved(picture, "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    own = whole.count(b"\xff\xda")
    return whole[:-2] + (between + last) * (scans - own) + whole[-2:]


def test_the_scans_of_a_jpeg_have_a_limit() -> None:
    assert read_picture(jpeg_of(MAX_SCANS)).size == (64, 64)
    assert f"more than {MAX_SCANS} scans" in refused(jpeg_of(MAX_SCANS + 1))


@pytest.mark.parametrize("between", [b"\0\0", b"\xff", b"\xff\xfe\0\2", b"\xff\xfe\0\4\xff\xd9"])
def test_scans_are_counted_whatever_lies_between_them(between: bytes) -> None:
    assert "scans" in refused(jpeg_of(MAX_SCANS + 1, between=between))


def test_the_segments_of_a_jpeg_have_a_limit() -> None:
    plain, comment = saved(a_picture(), "JPEG"), b"\xff\xfe\0\3x"

    def with_comments(count: int) -> bytes:
        return plain[:2] + comment * count + plain[2:]

    own = next(n for n in range(99) if _refuses(with_comments(MAX_SEGMENTS - n)) is False)
    assert 0 < own < 20
    assert "segments" in refused(with_comments(MAX_SEGMENTS - own + 1))


def _refuses(data: bytes) -> bool:
    try:
        read_picture(data)
    except InvalidReference:
        return True
    return False


def test_scans_of_a_preview_and_of_a_comment_do_not_count() -> None:
    preview = b"\xff\xda" * (MAX_SCANS + 1)
    assert read_picture(saved(a_picture(), "JPEG", comment=preview)).size == (48, 32)
    assert read_picture(saved(a_picture(), "JPEG") + preview).size == (48, 32)


def test_a_picture_waits_only_so_long_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()
    opened = Image.open

    def slowly(*given: Any, **named: Any) -> Image.Image:
        reading.set()
        assert go_on.wait(30)
        return opened(*given, **named)

    monkeypatch.setattr(Image, "open", slowly)
    first = threading.Thread(target=read_picture, args=(saved(a_picture()),))
    first.start()
    assert reading.wait(30)
    with pytest.raises(StoreUnavailable):
        read_picture(saved(a_picture()), patience=0.01)
    go_on.set()
    first.join(30)
    assert read_picture(saved(a_picture()), patience=0.01).size == (48, 32)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("turned", [False, True])
def test_sides_have_a_limit(format_: str, turned: bool) -> None:
    def strip(side: int) -> bytes:
        return saved(a_picture(16, side) if turned else a_picture(side, 16), format_)

    assert max(read_picture(strip(MAX_SIDE)).size) == MAX_SIDE
    assert f"more than {MAX_SIDE} per side" in refused(strip(MAX_SIDE + 1))


@pytest.mark.parametrize("size", [(5000, 5000), (12_000, 9_000), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_bomb_is_refused_by_its_header_without_a_warning(size: tuple[int, int]) -> None:
    said = refused(png_of(*size))
    assert "per side" in said or "pixels" in said or "not a PNG" in said


def test_a_webp_bomb_is_refused_by_its_header() -> None:
    assert "16000 x 16000" in refused(webp_of(16_000, 16_000))
    assert "16383 x 16383" in refused(
        b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0" + bytes(6) + struct.pack("<HH", 16_383, 16_383)
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_a_truncated_picture_is_refused(format_: str) -> None:
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    whole = saved(picture, format_)
    for end in (len(whole) // 3, len(whole) * 2 // 3):
        refused(whole[:end])


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_picture_that_moves_is_refused(format_: str) -> None:
    frames = [a_picture(), a_picture(mode="RGB").rotate(180)]
    moving = saved(frames[0], format_, save_all=True, append_images=frames[1:], duration=100)
    assert "more than one frame" in refused(moving)


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = read_picture(saved(a_picture(48, 32), "JPEG", exif=exif))
    assert picture.size == (32, 48)
    top_right = picture.getpixel((28, 4))
    assert isinstance(top_right, tuple)
    assert min(top_right) > 200  # the white corner was top left


def test_a_photo_with_broken_metadata_is_still_read() -> None:
    data = saved(a_picture(), "JPEG", exif=b"Exif\0\0garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(data).size == (48, 32)


def test_alpha_is_laid_onto_white() -> None:
    picture = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert read_picture(saved(picture)).getpixel((3, 3)) == (255, 255, 255)
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    assert read_picture(saved(half)).getpixel((3, 3)) == (127, 127, 127)
    indexed = Image.new("P", (16, 16), 0)
    assert read_picture(saved(indexed, transparency=0)).getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    picture = Image.new("I;16", (16, 16), 0x8080)
    assert read_picture(saved(picture)).getpixel((3, 3)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = a_picture().convert(mode)
    assert read_picture(saved(picture, "JPEG" if mode == "CMYK" else "PNG")).mode == "RGB"


def test_a_normalised_picture_keeps_pixels_and_no_metadata() -> None:
    exif = Image.Exif()
    exif[DESCRIPTION_TAG] = "where I live"
    data = saved(a_picture(), exif=exif, icc_profile=b"profile", dpi=(300, 300))
    content, width, height = normalise(data)
    again = Image.open(io.BytesIO(content))
    assert (again.format, again.size, (width, height)) == ("PNG", (48, 32), (48, 32))
    assert again.tobytes() == a_picture().tobytes()
    assert again.info == {}
    assert b"where I live" not in content


def test_the_same_pixels_are_normalised_to_the_same_bytes() -> None:
    plain, other = saved(a_picture()), saved(a_picture(), compress_level=1, dpi=(72, 72))
    assert plain != other
    assert normalise(plain) == normalise(other)


def test_a_png_carries_its_recipe_as_text() -> None:
    content = encode_image(a_picture(), format=ImageFormat.PNG, recipe=a_recipe(references=2))
    text = Image.open(io.BytesIO(content)).text  # type: ignore[attr-defined]
    assert text == {
        "prompt": "Mia wakes up",
        "seed": "8",
        "steps": "4",
        "guidance": "2.5",
        "size": "48x32",
        "weights": "tiny",
        "weights_sha256": "e" * 64,
        "references": "0" * 64 + " " + "1" * 64,
        "recipe": "f" * 64,
        "Software": "illo 0.1.0",
    }


@pytest.mark.parametrize("prompt", ["Łódź, 夜の嵐 🌩️", "café\nau lait", "x" * 4000, "🌩" * 4000])
@pytest.mark.parametrize("format_", ImageFormat)
def test_any_prompt_is_kept_in_any_format(format_: ImageFormat, prompt: str) -> None:
    recipe = a_recipe(prompt)
    content = encode_image(a_picture(), format=format_, recipe=recipe)
    image = Image.open(io.BytesIO(content))
    if format_ is ImageFormat.PNG:
        assert image.text["prompt"] == prompt  # type: ignore[attr-defined]
    else:
        assert json.loads(image.getexif()[DESCRIPTION_TAG]) == recipe.described()


@pytest.mark.parametrize("format_", ImageFormat)
def test_encoding_twice_gives_the_same_bytes(format_: ImageFormat) -> None:
    drawn = [encode_image(a_picture(), format=format_, recipe=a_recipe()) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert Image.open(io.BytesIO(drawn[0])).get_format_mimetype() == format_.content_type  # type: ignore[attr-defined]


def test_a_png_of_a_picture_with_grain_is_no_larger_than_a_search_makes_it() -> None:
    shades = Image.radial_gradient("L")
    grain = [Image.effect_noise(shades.size, 4) for _ in "RGB"]
    picture = Image.merge("RGB", [ImageChops.add(shades, one, offset=-128) for one in grain])
    content = encode_image(picture, format=ImageFormat.PNG, recipe=a_recipe())
    assert len(content) < 1.03 * len(saved(picture, compress_level=4))


def test_a_png_keeps_every_pixel() -> None:
    picture = Image.effect_noise((48, 32), 80).convert("RGB")
    content = encode_image(picture, format=ImageFormat.PNG, recipe=a_recipe())
    assert Image.open(io.BytesIO(content)).tobytes() == picture.tobytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    format_=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    keep=st.floats(0.1, 1.0),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(
    format_: str, changes: list[tuple[int, int]], keep: float
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = bytearray(saved(a_picture(), format_, exif=exif))
    for place, value in changes:
        data[place % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(InvalidReference):
            read_picture(bytes(data[: int(len(data) * keep)]))
