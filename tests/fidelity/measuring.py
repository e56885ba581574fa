"""Draw orders with a worker's pipeline, and count what the judge finds kept."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from PIL import Image

from shared.scenes import Scene
from tests.fidelity.orders import Order, named
from tests.pipeline.drawings import a_drawing, difference, drawn
from worker.pipeline.artist.characters import hue_distance
from worker.pipeline.artist.judge import Judge, Verdict
from worker.pipeline.kontext import Kontext

SAME_HUE = 25  # degrees: names of hues are 24 to 63 apart
TOGETHER = 12  # one of each setting: sizes change after these


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of how many pictures, from 0 to 1, each trait is what was asked for."""

    colour: float
    shape: float
    hat: float
    eyes: float
    all_four: float
    setting: float
    hue_error: float  # the median, in degrees


def score(asked: Sequence[Order], pictures: Sequence[Image.Image], judge: Judge) -> Score:
    """Compare what pictures show with what was asked for."""
    verdicts = judged(pictures, judge)
    kept = [_kept(order, verdict) for order, verdict in zip(asked, verdicts, strict=True)]
    errors = [
        hue_distance(order.character.hue, verdict.character.hue)
        for order, verdict in zip(asked, verdicts, strict=True)
    ]
    colour, shape, hat, eyes, setting = (_part(list(column)) for column in zip(*kept, strict=True))
    return Score(
        colour=colour,
        shape=shape,
        hat=hat,
        eyes=eyes,
        all_four=_part([all(each[:4]) for each in kept]),
        setting=setting,
        hue_error=median(errors),
    )


def distance(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """How far pictures are from others, in levels of 255: the median of their mean differences."""
    found = [difference(one, other) for one, other in zip(pictures, others, strict=True)]
    return median(found)


def judged(pictures: Sequence[Image.Image], judge: Judge) -> list[Verdict]:
    """Let the judge look at pictures of any sizes; verdicts come in their order."""
    by_size = defaultdict(list)
    for at, picture in enumerate(pictures):
        by_size[picture.size].append(at)
    verdicts: dict[int, Verdict] = {}
    for rows in by_size.values():
        found = judge.look([pictures[at] for at in rows])
        verdicts.update(zip(rows, found, strict=True))
    return [verdicts[at] for at in range(len(pictures))]


def draw_all(
    kontext: Kontext, scenes: Sequence[Scene], references: Sequence[Sequence[Image.Image]]
) -> list[Image.Image]:
    """Draw scenes with a worker's pipeline, several at once where it was begun so."""
    pictures: list[Image.Image] = []
    for start in range(0, len(scenes), TOGETHER):
        some = slice(start, start + TOGETHER)
        found = kontext.draw([
            a_drawing(scene, read=lambda reference, given=given: given[reference.sha256])
            for scene, given in zip(scenes[some], [_named(each) for each in references[some]],
                                    strict=True)
        ])  # fmt: skip
        pictures += [drawn(outcome).images[0] for outcome in found]
    return pictures


def _named(references: Sequence[Image.Image]) -> dict[str, Image.Image]:
    return {named(each).sha256: each for each in references}


def _kept(order: Order, verdict: Verdict) -> tuple[bool, ...]:
    asked, found = order.character, verdict.character
    return (
        hue_distance(asked.hue, found.hue) <= SAME_HUE,
        asked.shape is found.shape,
        asked.hat is found.hat,
        asked.eyes is found.eyes,
        order.setting is verdict.setting,
    )


def _part(kept: Sequence[bool]) -> float:
    return sum(kept) / len(kept)
