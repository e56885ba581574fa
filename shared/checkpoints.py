"""What may become a job's checkpoint, and what is remembered of stored latents: pure rules."""

from shared.errors import CheckpointsSpent
from shared.vocabulary import Checkpoint, ErrorCode, Latents

# A record takes 25 bytes of the job's document, which is written at every heartbeat. At one every
# ten seconds this is a quarter of an hour of drawing; most drawings take one minute.
MOST_LATENTS = 100

# Errors of something else than the drawing, which can go on where it was. After all the others the
# latents themselves may be the cause, so the next attempt begins at the start.
KEPT_AFTER = frozenset({ErrorCode.ARTIFACT_STORE})


def why_refused(
    new: Checkpoint, *, present: Checkpoint | None, recipe: str, attempt: int, steps: int
) -> str | None:
    """Say why a drawing cannot go on from a checkpoint, or None if it can.

    `recipe` and `steps` are the job's, `attempt` its latest, `present` the checkpoint it has.
    """
    if new.recipe != recipe:  # other weights are another recipe, too
        return "it is of another recipe"
    if not 1 <= new.attempt <= attempt:
        return f"it is of attempt {new.attempt}, and there were {attempt}"
    if not 1 <= new.step <= steps:
        return f"it is of step {new.step} of {steps}"
    if present is not None and new.step < present.step:
        return f"it is of step {new.step}, and there is one of step {present.step}"
    return None


def announced(stored: tuple[Latents, ...], new: Latents) -> tuple[Latents, ...]:
    """Add latents to those that clean-up will remove; raises CheckpointsSpent at MOST_LATENTS."""
    if new in stored:
        return stored
    if len(stored) >= MOST_LATENTS:
        raise CheckpointsSpent(f"{MOST_LATENTS} latents of this job were stored; no more are")
    return (*stored, new)
