"""Small pictures to upload, and a look at what was drawn."""

import io

from PIL import Image, ImageDraw


def a_picture(colour: str = "tomato", size: tuple[int, int] = (128, 128)) -> bytes:
    """Draw a character of sorts on a pale ground, as PNG."""
    image = Image.new("RGB", size, "ivory")
    width, height = size
    ImageDraw.Draw(image).ellipse(
        (width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=colour, outline="black"
    )
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    """Decode a picture."""
    return Image.open(io.BytesIO(content))
