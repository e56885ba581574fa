"""Choose what is learned from next: targets, captions and references, of the same sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

import torch

from worker.pipeline.artist.album import Page
from worker.pipeline.artist.captions import draw_caption
from worker.pipeline.artist.stories import SCENES


class Shown(Enum):
    """What a batch sees of the character beside the words."""

    PLAIN = "the character alone"
    SCENE = "another of its scenes"
    BOTH = "the character alone, then another of its scenes"
    NOTHING = "the caption says how it looks"


# How often each is shown; the first is what the artist is for.
SHARES = {Shown.PLAIN: 0.7, Shown.SCENE: 0.12, Shown.BOTH: 0.04, Shown.NOTHING: 0.14}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """A batch: latents of targets, of the references in their order, and captions."""

    targets: torch.Tensor  # (batch, 16, height / 16, width / 16)
    references: tuple[torch.Tensor, ...]
    captions: tuple[str, ...]
    counts: torch.Tensor  # (batch, tokens): what each part of a target counts


def draw_examples(page: Page, chance: Random, *, count: int) -> Examples:
    """Choose a batch of one kind."""
    shown = chance.choices(list(SHARES), list(SHARES.values()))[0]
    rows = [chance.randrange(len(page.stories)) for _ in range(count)]
    return make_examples(page, rows, chance, shown)


def make_examples(page: Page, rows: Sequence[int], chance: Random, shown: Shown) -> Examples:
    """Make a batch of the stories in these rows."""
    scenes = [chance.sample(range(SCENES), 2) for _ in rows]
    captions = []
    for row, (target, _) in zip(rows, scenes, strict=True):
        told = page.stories[row]
        captions.append(
            draw_caption(
                told.character,
                told.settings[target],
                chance,
                referenced=shown is not Shown.NOTHING,
            )
        )
    at = torch.tensor(rows)
    targets, others = torch.tensor(scenes).T
    plain, another = page.plain[at].float(), page.scenes[at, others].float()
    references = {
        Shown.PLAIN: (plain,),
        Shown.SCENE: (another,),
        Shown.BOTH: (plain, another),
        Shown.NOTHING: (),
    }
    return Examples(
        targets=page.scenes[at, targets].float(),
        references=references[shown],
        captions=tuple(captions),
        counts=page.counts[at, targets],
    )
