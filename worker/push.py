"""What a push is answered: the table of docs/protocol.md, from envelope to status code."""

import logging
from collections.abc import Callable
from enum import IntEnum

from shared.errors import BadEnvelope, JobNotFound, StoreUnavailable
from shared.messages import decode_envelope
from shared.ports import JobStore
from shared.vocabulary import Status
from worker.desk import Desk

log = logging.getLogger(__name__)


class PushAnswer(IntEnum):
    """Acknowledge, or ask for the message again; a NACK slows every other message down."""

    DONE = 204
    AGAIN = 503


def answer_push(
    body: bytes, *, jobs: JobStore, desk: Desk, holder: str, poisoned: Callable[[], None]
) -> PushAnswer:
    """Wake up for a job: draw what is due, and acknowledge unless nothing could be recorded.

    `poisoned` hears of every message that we cannot read; sending it again would not help.
    """
    try:
        envelope = decode_envelope(body)
        job = jobs.get(envelope.wake.job)
        if job.status.final:
            return PushAnswer.DONE
        if job.status is Status.RUNNING and job.lease and job.lease.holder == holder:
            # Held open, so that this instance does not look idle while it draws or finishes.
            desk.hands.wait_until_let_go({job.id})
            return PushAnswer.DONE
        desk.draw_due()
    except BadEnvelope as error:
        log.warning("poison", extra={"reason": str(error)})
        poisoned()
    except JobNotFound as error:
        log.warning("poison", extra={"reason": f"unknown job: {error}"})
        poisoned()
    except StoreUnavailable as error:
        log.error("the store is away", extra={"reason": str(error)})
        return PushAnswer.AGAIN
    return PushAnswer.DONE
