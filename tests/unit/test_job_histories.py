"""Any history of a job, from a seed: workers that crash, clocks that jump, doubled messages.

Hypothesis drives the real transitions through a store of one job and holds them to the promises.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from api.tidy import leftovers
from shared.artifact_names import latents_name
from shared.checkpoints import KEPT_AFTER
from shared.errors import JobError
from shared.jobs import (
    Job,
    announce,
    cancel,
    claim,
    confirm_wake,
    expire,
    fail,
    forget_checkpoint,
    grant_cancel,
    release,
    renew,
    stamp,
    succeed,
    wake,
)
from shared.ports import JobChange
from shared.vocabulary import ErrorCode, Event, Failure, Latents, Lease, Metrics, Status
from tests.builders import NOW, TERMS, a_checkpoint, a_job, an_image, sha

WORKERS = st.sampled_from(["w1", "w2", "w3"])
CODES = st.sampled_from([ErrorCode.INTERNAL, ErrorCode.ARTIFACT_STORE, ErrorCode.BLANK_IMAGE])
STEPS = st.integers(1, 5)  # of a scene of four: the fifth is a mistake
NOTHING = Metrics()


class Histories(RuleBasedStateMachine):
    """One job, three workers that may hold leases long lost, and a clock that only goes on."""

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.job: Job = a_job()
        self.leases: list[Lease] = []
        self.commits: list[int] = []
        self.stored: set[Latents] = set()
        self.final: Job | None = None

    def update(self, change: JobChange) -> Job | None:
        """Do what every store does."""
        try:
            after = change(self.job, self.now)
        except JobError:
            return None
        if after is not self.job:
            self.check_step(self.job, after)
            self.job = stamp(self.job, after, self.now)
        return self.job

    def check_step(self, before: Job, after: Job) -> None:
        assert after.attempt in (before.attempt, before.attempt + 1), "attempts count up by one"
        assert not before.status.final, "a final job does not change"
        assert after.failures >= before.failures
        assert after.interruptions >= before.interruptions
        assert after.metrics.gpu_seconds >= before.metrics.gpu_seconds
        assert after.scene == before.scene
        assert after.recipe == before.recipe
        self.check_checkpoint(before, after)

    def check_checkpoint(self, before: Job, after: Job) -> None:
        was, kept = before.checkpoint, after.checkpoint
        if kept is None or kept == was:
            return
        assert before.lease is not None, "only a holder saves"
        assert kept.attempt == before.lease.token == before.attempt, "and only its own attempt's"
        assert Latents(attempt=kept.attempt, step=kept.step) in after.latents, "and tells clean-up"
        assert kept.recipe == after.recipe
        assert kept.step <= after.scene.all_steps
        assert was is None or kept.step >= was.step, "nobody goes back while there is one"

    @rule(pause=st.sampled_from([1, 6, 30, 81, 400, 2000, 90_000]))
    def time_passes(self, pause: int) -> None:
        self.now += timedelta(seconds=pause)

    @rule(holder=WORKERS)
    def a_worker_claims(self, holder: str) -> None:
        before = self.job
        job = self.update(lambda job, now: claim(job, now, holder=holder, terms=TERMS))
        if job and job.lease and job.status is Status.RUNNING and job.attempt > before.attempt:
            self.leases.append(job.lease)

    @precondition(lambda self: self.leases)
    @rule(choice=st.randoms(use_true_random=False))
    def somebody_renews(self, choice: object) -> None:
        lease = choice.choice(self.leases)  # type: ignore[attr-defined]
        self.update(lambda job, now: renew(job, now, lease=lease, progress=None, terms=TERMS))

    @precondition(lambda self: self.leases)
    @rule(number=st.sampled_from([-1, -1, -1, 0]), steps=st.lists(STEPS, min_size=1, max_size=3))
    def somebody_saves(self, number: int, steps: list[int]) -> None:
        """Save step by step, in whatever order: under the newest lease, or the first."""
        for step in steps:
            self.save(self.leases[number], step, told=True)

    @precondition(lambda self: self.leases)
    @rule(step=STEPS, mistake=st.sampled_from(["nothing told", "recipe", "attempt", "giving"]))
    def somebody_saves_by_mistake(self, step: int, mistake: str) -> None:
        newest = self.leases[-1]
        self.save(
            newest,
            step,
            told=mistake != "nothing told",
            recipe=sha("another") if mistake == "recipe" else self.job.recipe,
            attempt=self.leases[0].token if mistake == "attempt" else newest.token,
            giving=mistake == "giving",
        )

    def save(self, lease: Lease, step: int, *, told: bool, giving: bool = False, **of: Any) -> None:
        """Store latents where their name was accepted, as a worker does that then may die."""
        if told:
            announced = self.update(lambda job, now: announce(job, now, lease=lease, step=step))
            if announced is None:
                return
            self.stored.add(Latents(attempt=lease.token, step=step))
        new = a_checkpoint(self.job, step, **{"attempt": lease.token} | of)
        what: Any = {"lease": lease, "checkpoint": new, "terms": TERMS}
        if giving:
            self.update(lambda job, now: release(job, now, metrics=NOTHING, **what))
        else:
            self.update(lambda job, now: renew(job, now, progress=None, **what))

    @precondition(lambda self: self.leases)
    @rule(choice=st.randoms(use_true_random=False))
    def somebody_cannot_use_the_checkpoint(self, choice: object) -> None:
        lease = choice.choice(self.leases)  # type: ignore[attr-defined]
        self.update(lambda job, now: forget_checkpoint(job, now, lease=lease))

    @precondition(lambda self: self.leases)
    @rule(choice=st.randoms(use_true_random=False))
    def somebody_commits(self, choice: object) -> None:
        lease = choice.choice(self.leases)  # type: ignore[attr-defined]
        was = self.job.status
        images = (an_image(replace(self.job, attempt=lease.token)),)
        job = self.update(
            lambda job, now: succeed(
                job, now, lease=lease, images=images, metrics=NOTHING, terms=TERMS
            )
        )
        if job and was is Status.RUNNING and job.status is Status.SUCCEEDED:
            self.commits.append(lease.token)

    @precondition(lambda self: self.leases)
    @rule(choice=st.randoms(use_true_random=False), retryable=st.booleans(), code=CODES)
    def somebody_fails(self, choice: object, retryable: bool, code: ErrorCode) -> None:
        lease = choice.choice(self.leases)  # type: ignore[attr-defined]
        error = Failure(code=code, message="", retryable=retryable)
        had = self.job.checkpoint
        failed = self.update(
            lambda job, now: fail(
                job, now, lease=lease, error=error, metrics=NOTHING, jitter=0, terms=TERMS
            )
        )
        if failed and failed.status is Status.QUEUED:
            assert failed.checkpoint == (had if code in KEPT_AFTER else None)

    @precondition(lambda self: self.leases)
    @rule(choice=st.randoms(use_true_random=False), granting=st.booleans())
    def somebody_gives_back(self, choice: object, granting: bool) -> None:
        lease = choice.choice(self.leases)  # type: ignore[attr-defined]
        give = grant_cancel if granting and self.job.cancel_requested_at else release
        self.update(lambda job, now: give(job, now, lease=lease, metrics=NOTHING, terms=TERMS))

    @rule()
    def the_owner_cancels(self) -> None:
        self.update(lambda job, now: cancel(job, now, terms=TERMS))

    @rule()
    def the_sweep_comes_by(self) -> None:
        self.update(lambda job, now: expire(job, now, terms=TERMS))
        self.update(wake)

    @rule()
    def a_publish_is_confirmed(self) -> None:
        self.update(confirm_wake)

    @invariant()
    def a_lease_is_held_exactly_while_running(self) -> None:
        if not hasattr(self, "job"):
            return
        assert (self.job.status is Status.RUNNING) == (self.job.lease is not None)
        if self.job.lease:
            assert self.job.lease.token == self.job.attempt

    @invariant()
    def it_is_committed_at_most_once_and_by_the_newest_attempt(self) -> None:
        if not hasattr(self, "job"):
            return
        assert len(self.commits) <= 1
        succeeded = self.job.status is Status.SUCCEEDED
        assert succeeded == bool(self.commits)
        if succeeded:
            assert self.job.images_attempt == self.job.attempt == self.commits[0]
            assert f"/a{self.job.attempt}/" in self.job.images[0].artifact
        else:
            assert not self.job.images

    @invariant()
    def clean_up_knows_all_latents_that_were_ever_stored(self) -> None:
        if not hasattr(self, "job"):
            return
        named = set(leftovers(self.job))
        assert {latents_name(self.job.id, each.attempt, each.step) for each in self.stored} <= named
        if self.job.status.final:
            assert self.job.checkpoint is None, "nobody goes on from it"
            assert self.job.cleanup_due or not self.stored

    @invariant()
    def a_waiting_job_is_not_wished_away(self) -> None:
        if hasattr(self, "job") and self.job.status is Status.QUEUED:
            assert self.job.cancel_requested_at is None, "nobody would ever end it"

    @invariant()
    def budgets_hold_and_the_end_is_told_once(self) -> None:
        if not hasattr(self, "job"):
            return
        job = self.job
        assert job.failures <= TERMS.failures
        assert job.interruptions <= TERMS.interruptions + 1
        ends = {Event.SUCCEEDED, Event.FAILED, Event.CANCELED, Event.EXPIRED}
        assert sum(m.event in ends for m in job.timeline) == int(job.status.final)
        assert (job.finished_at is not None) == job.status.final
        assert (job.error is not None) >= (job.status is Status.FAILED)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
