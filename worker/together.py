"""Draw the jobs in several hands with one call of the pipeline."""

from collections.abc import Sequence
from dataclasses import replace

from shared.errors import LeaseLost
from shared.vocabulary import Phase
from worker.drawing import Ahead, Drawing, Drawn, Pipeline
from worker.hands import Hand
from worker.heartbeat import CancelHeard, WorkerStopping
from worker.run_job import caught


def draw_together(
    hands: Sequence[Hand], pipeline: Pipeline, *, ahead: Sequence[Ahead] = ()
) -> list[Drawn | Exception]:
    """Draw what these hands hold, tell each what came of its own, and return that in their order.

    Who is stopped on the way hears of it at once, and need not wait until the others are drawn.
    """
    images = sum(hand.job.scene.count for hand in hands)
    begun: list[tuple[Hand, Drawing]] = []
    for hand in hands:
        hand.attempt.drawn_among(images)
        drawing = caught(hand.attempt.drawing)
        if isinstance(drawing, Exception):
            hand.tell(drawing)
        else:
            begun.append((hand, _heard_by(hand, drawing, hands)))
    if begun:
        outcomes = caught(lambda: pipeline.draw([drawing for _, drawing in begun], ahead=ahead))
        if isinstance(outcomes, Exception):
            outcomes = [outcomes] * len(begun)
        for (hand, _), outcome in zip(begun, outcomes, strict=True):
            hand.tell(outcome)
    return [hand.drawn.result() for hand in hands]


def _heard_by(hand: Hand, drawing: Drawing, hands: Sequence[Hand]) -> Drawing:
    """Let an advance of one count for all: they wait for each other, and none of them hangs."""

    def on_progress(phase: Phase, step: int, steps: int) -> None:
        for each in hands:
            each.attempt.alive()
        try:
            drawing.on_progress(phase, step, steps)
        except (LeaseLost, CancelHeard, WorkerStopping) as heard:
            hand.tell(heard)
            raise

    return replace(drawing, on_progress=on_progress)
