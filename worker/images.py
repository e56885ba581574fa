"""Decode references, and encode drawn images with their recipe inside."""

import io
import json
import zlib
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.pictures import read_stored
from shared.scenes import ImageFormat, Scene

# Of what a drawing holds, PNG's filters leave noise, in which nothing long is worth a search: runs
# alone take 80 ms at 1024 x 1024, where Pillow's level 4 takes 210 for as many bytes or more.
PNG_STRATEGY = zlib.Z_RLE
PNG_LEVEL = 1  # of no weight beside that strategy, but 0 would store the pixels as they are
JPEG_QUALITY = 93
WEBP_QUALITY = 92
WEBP_EFFORT = 4
# EXIF's ImageDescription; what `file`, browsers' inspectors and image viewers show.
DESCRIPTION_TAG = 0x010E
SOFTWARE_TAG = 0x0131


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe:
    """How one image was drawn; `seed` is this image's own, `recipe` the scene's digest."""

    scene: Scene
    seed: int
    recipe: str
    illo_version: str

    def described(self) -> dict[str, str]:
        """Say it in words, as it is written into the file."""
        scene = self.scene
        return {
            "prompt": scene.prompt,
            "seed": str(self.seed),
            "steps": str(scene.steps),
            "guidance": str(scene.guidance),
            "size": f"{scene.width}x{scene.height}",
            "weights": scene.weights.label,
            "weights_sha256": scene.weights.sha256,
            "references": " ".join(reference.sha256 for reference in scene.references),
            "recipe": self.recipe,
            "Software": f"illo {self.illo_version}",
        }


def decode_reference(data: bytes) -> Image.Image:
    """Decode a stored reference into upright RGB; raises InvalidReference, naming the limit.

    Not that of an upload's bytes: what was stored of a small photo may be larger.
    """
    return read_stored(data)


def encode_image(image: Image.Image, *, format: ImageFormat, recipe: ImageRecipe) -> bytes:
    """Encode an image with its recipe: as text chunks in PNG, as one JSON in EXIF else.

    The same image and recipe give the same bytes.
    """
    file = io.BytesIO()
    if format is ImageFormat.PNG:
        image.save(
            file,
            format="PNG",
            compress_level=PNG_LEVEL,
            compress_type=PNG_STRATEGY,
            pnginfo=_text(recipe),
        )
    elif format is ImageFormat.JPEG:
        image.save(file, format="JPEG", quality=JPEG_QUALITY, subsampling=0, exif=_exif(recipe))
    else:
        image.save(
            file, format="WEBP", quality=WEBP_QUALITY, method=WEBP_EFFORT, exif=_exif(recipe)
        )
    return file.getvalue()


def _text(recipe: ImageRecipe) -> PngInfo:
    text = PngInfo()
    for key, value in recipe.described().items():
        # where the words do not fit Latin-1, Pillow writes an international text chunk
        text.add_text(key, value)
    return text


def _exif(recipe: ImageRecipe) -> Image.Exif:
    exif = Image.Exif()
    # escaped to ASCII, the only thing that tag may hold; 4,000 characters still fit its 64 KB
    exif[DESCRIPTION_TAG] = json.dumps(recipe.described(), ensure_ascii=True)
    exif[SOFTWARE_TAG] = recipe.described()["Software"]
    return exif
