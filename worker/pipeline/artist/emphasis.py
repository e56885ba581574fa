"""What each part of a picture counts while it is learned: somebody's face and hat most.

Settings are learned early, and fill most of a picture; what is lost on them then says little, and
drowns what is lost on who stands there. Where every part has its own best guess, counting some
parts more changes none of these guesses, only how soon they are found.
"""

from collections.abc import Sequence

import torch

from worker.pipeline.artist.characters import Place
from worker.pipeline.artist.shapes import VAE_LEVELS

PART = 2**VAE_LEVELS  # pixels that one token draws, across and down: patches halve once more
# What is counted beside 1: left, right, bottom and top in body heights from the feet, and how much.
FIGURE = (-0.55, 0.55, 0.0, 1.4)
HEAD = (-0.35, 0.35, 0.35, 1.4)
COUNTED = ((FIGURE, 2.0), (HEAD, 2.0))


def emphasis(places: Sequence[Place], size: tuple[int, int]) -> torch.Tensor:
    """Tell what each token counts: (places, tokens), 1 where nobody is."""
    width, height = size
    counts = torch.ones(len(places), height // PART, width // PART)
    for (left, right, bottom, top), count in COUNTED:
        across = [(each.x + left * each.size, each.x + right * each.size) for each in places]
        down = [(each.y - top * each.size, each.y - bottom * each.size) for each in places]
        counts += count * _covered(down, height)[:, :, None] * _covered(across, width)[:, None, :]
    return counts.flatten(1)


def _covered(spans: Sequence[tuple[float, float]], length: int) -> torch.Tensor:
    """How much of each part between 0 and `length` each span covers: (spans, parts)."""
    begins = torch.arange(0, length, PART)
    first, last = torch.tensor(spans).T[..., None]
    covered = torch.minimum(begins + PART, last) - torch.maximum(begins, first)
    return covered.clamp(min=0) / PART
