"""Draw one claimed job and commit how it ended, whatever happens on the way."""

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shared.errors import JobError, LeaseLost, StoreUnavailable
from shared.jobs import Job, fail, grant_cancel, release, succeed
from shared.ports import JobChange
from shared.vocabulary import Checkpoint, DrawnImage, Phase
from worker.course import Course
from worker.drawing import Drawing, Drawn
from worker.heartbeat import CancelHeard, WorkerStopping
from worker.outcomes import commit, failure_of, names
from worker.stored import encode_drawn, store_image
from worker.workplace import Workplace

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)
Result = TypeVar("Result")

ENCODING_IMAGES = "image_encoding"  # a stage beside the phases
LAST_SAVE = 3.0  # seconds that the latents of a stopped drawing have to reach the store
UNDER_WAY = 0.5  # seconds to get the last latents from the device, and as many to store them


def run_job(job: Job, at: Workplace) -> Job | None:
    """Draw a job that this worker has claimed; return it as committed, or None if the lease went.

    Never raises for what went wrong with the drawing: that is committed as the job's outcome.
    """
    attempt = Attempt(job, at)
    return attempt.run(lambda: caught(lambda: at.pipeline.draw([attempt.drawing()])[0]))


class Attempt:
    """One claimed job on its way; a `with` block keeps its lease alive.

    `drawing` says what to draw and `finish` takes what came of it; another thread may finish.
    """

    def __init__(self, job: Job, at: Workplace) -> None:
        self.job, self._at, self._course = job, at, Course(job, at)

    def run(self, drawn: Callable[[], Drawn | Exception]) -> Job | None:
        """Keep it alive until `drawn` says what came of the drawing, then finish it."""
        with self:
            return self.finish(drawn())

    def alive(self) -> None:
        """Note that what it waits for advances."""
        self._course.beat.alive()

    def drawn_among(self, images: int) -> None:
        """Note that its images share the device with others; `images` counts all."""
        self._course.share = self.job.scene.count / images

    def drawing(self) -> Drawing:
        """Make ready what the pipeline needs; what this raises is an outcome, too."""
        return self._course.drawing()

    def finish(self, outcome: Drawn | Exception) -> Job | None:
        """Store the images and commit, or commit why there are none; None if the lease went."""
        self._course.end()
        end = self._ending_of(outcome)
        if end is None:
            return None
        beat = self._course.beat
        ended = commit(self.job, end, jobs=self._at.jobs, lease_left=lambda: beat.lease_left)
        if ended is not None:
            self._at.measures.attempted(ended)
        return ended

    def give_back(self) -> None:
        """T8 from another thread: with the latents of the last step, and no step is waited for."""
        # in a thread of its own: the device that should give them may be what hangs
        saving = threading.Thread(target=self._course.save_last_step, daemon=True)
        saving.start()
        saving.join(UNDER_WAY)
        checkpoint = self._course.saver.settle(UNDER_WAY)
        self._course.saver.stop()
        try:
            freed = self._at.jobs.update(self.job.id, self._released(checkpoint))
        except (JobError, StoreUnavailable) as error:
            log.warning("not given back", extra={**names(self.job), "reason": str(error)})
        else:
            log.info("given back", extra=names(self.job))
            self._at.measures.attempted(freed)

    def __enter__(self) -> Self:
        self._course.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._course.__exit__(kind, error, trace)

    def _ending_of(self, outcome: Drawn | Exception) -> JobChange | None:
        """Choose the transition for what came of the drawing; none if the lease went."""
        if isinstance(outcome, Exception):
            return self._ending_without_images(outcome)
        images = caught(partial(self._store, outcome))
        if isinstance(images, Exception):
            return self._ending_without_images(images)
        used = self._course.used(outcome)
        return partial(succeed, **self._terms, images=images, metrics=used)

    def _ending_without_images(self, why: Exception) -> JobChange | None:
        if isinstance(why, LeaseLost):
            log.warning("lease lost", extra={**names(self.job), "reason": str(why)})
            return None
        if isinstance(why, WorkerStopping):
            return self._released(self._course.saver.settle(LAST_SAVE))
        used = self._course.used(None)
        if isinstance(why, CancelHeard):
            return partial(grant_cancel, **self._terms, metrics=used)
        failure = failure_of(self.job, why)
        spread = random.uniform(-1, 1)  # noqa: S311 - of retries; guards nothing
        return partial(fail, **self._terms, error=failure, metrics=used, jitter=spread)

    def _released(self, checkpoint: Checkpoint | None) -> JobChange:
        used = self._course.used(None)
        return partial(release, **self._terms, metrics=used, checkpoint=checkpoint)

    def _store(self, drawn: Drawn) -> tuple[DrawnImage, ...]:
        return tuple(self._store_one(index, image) for index, image in enumerate(drawn.images))

    def _store_one(self, index: int, image: "Image") -> DrawnImage:
        job, at, beat = self.job, self._at, self._course.beat
        steps = job.scene.all_steps
        beat.advance(Phase.UPLOADING, steps, steps)
        beat.enter(ENCODING_IMAGES)
        content = encode_drawn(job, index, image, illo_version=at.illo_version)
        beat.advance(Phase.UPLOADING, steps, steps)
        stored = store_image(job, index, content, size=image.size, artifacts=at.artifacts)
        at.measures.image_stored(stored.bytes)
        return stored

    @property
    def _terms(self) -> Any:
        return {"lease": self._course.beat.lease, "terms": self._at.terms}


def caught(work: Callable[[], Result]) -> Result | Exception:
    """Do a work whose error is an outcome."""
    try:
        return work()
    except Exception as error:  # the one place: a drawing must not take the worker with it
        return error
