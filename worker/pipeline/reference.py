"""Bring a reference to a size that the model can look at."""

from PIL import Image

MULTIPLE = 16  # FLUX's VAE divides by 8, patches by 2
MIN_SIDE = 64
MAX_SIDE = 4096
MAX_AREA = 1024 * 1024  # what Kontext was trained with; more costs time and gains nothing


def fit_reference(image: Image.Image, *, multiple: int = MULTIPLE) -> Image.Image:
    """Resize to sides that are such multiples, keeping the shape as nearly as these allow."""
    size = fit_size(image.width, image.height, multiple=multiple)
    picture = image.convert("RGB")
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS)


def fit_size(width: int, height: int, *, multiple: int = MULTIPLE) -> tuple[int, int]:
    """Choose the sides: at most one megapixel in all, each 64 to 4096 and such a multiple."""
    scale = min(1.0, (MAX_AREA / (width * height)) ** 0.5)
    # a small one is enlarged as a whole, so that its shape stays
    scale = max(scale, MIN_SIDE / min(width, height)) if scale == 1.0 else scale
    fitted = [_nearest(side * scale, multiple) for side in (width, height)]
    while fitted[0] * fitted[1] > MAX_AREA:
        longer = fitted.index(max(fitted))
        fitted[longer] -= multiple
    return fitted[0], fitted[1]


def _nearest(side: float, multiple: int) -> int:
    return min(MAX_SIDE, max(MIN_SIDE, round(side / multiple) * multiple))
