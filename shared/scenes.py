"""A scene is what to draw; its recipe is everything that decides the pixels."""

import hashlib
import json
from dataclasses import dataclass, fields
from enum import StrEnum

MOST_REFERENCES = 4
USUAL_PIXELS = 1024 * 1024  # what the full size was trained on


class ImageFormat(StrEnum):
    """How an image is encoded; the value is also the file's extension."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def content_type(self) -> str:
        """The MIME type that the image is served with."""
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image that the drawing must keep to, pinned by content and by stored generation."""

    asset: str
    sha256: str
    artifact: str
    generation: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Which weights are meant: what they say they are, and the digest of their manifest's files."""

    label: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What to draw, with nothing left to choose: drawing it twice gives the same picture."""

    prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    count: int = 1
    format: ImageFormat = ImageFormat.PNG
    references: tuple[Reference, ...] = ()
    weights: Weights

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per image; they wrap at 2^32, the range that a scene accepts."""
        return tuple((self.seed + i) % 2**32 for i in range(self.count))

    @property
    def all_steps(self) -> int:
        """How many denoising steps its images take, all of them."""
        return self.steps * self.count

    @property
    def megapixel_steps(self) -> float:
        """How much work the drawing is, in denoising steps of one million pixels."""
        return self.width * self.height * self.steps * self.count / 1e6


def recipe_of(scene: Scene) -> str:
    """Digest everything that decides the pixels, as 64 hexadecimal digits.

    References count by their content: the same picture uploaded twice is the same recipe.
    """
    parts: dict[str, object] = {part.name: getattr(scene, part.name) for part in fields(scene)}
    parts["references"] = [reference.sha256 for reference in scene.references]
    parts["weights"] = [scene.weights.label, scene.weights.sha256]
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
