"""Checkpoints: which are taken, which are refused, what outlives a failure, what is cleaned up."""

import json
from dataclasses import replace

import pytest

from api.tidy import leftovers
from shared.checkpoints import KEPT_AFTER, MOST_LATENTS, announced, why_refused
from shared.documents import from_json, to_json
from shared.errors import CancelWished, CheckpointsSpent, LeaseLost
from shared.jobs import (
    Job,
    announce,
    cancel,
    claim,
    delete,
    enqueue,
    expire,
    fail,
    finish_cleanup,
    forget_checkpoint,
    grant_cancel,
    release,
    renew,
    succeed,
)
from shared.scenes import Weights, recipe_of
from shared.vocabulary import Checkpoint, ErrorCode, Failure, Latents, Lease, Metrics, Status
from tests.builders import (
    NOW,
    TERMS,
    a_checkpoint,
    a_job,
    a_lease,
    a_scene,
    an_expired_lease,
    saved_at,
    seconds,
    sha,
)

NOTHING = Metrics()
FINAL = [Status.SUCCEEDED, Status.FAILED, Status.CANCELED]


def a_running_job(**what_matters: object) -> Job:
    return a_job(status=Status.RUNNING, **what_matters)


def mine(job: Job) -> Lease:
    assert job.lease is not None
    return job.lease


def renewed(job: Job, checkpoint: Checkpoint | None) -> Job:
    return renew(job, NOW, lease=mine(job), progress=None, checkpoint=checkpoint, terms=TERMS)


def released(job: Job, checkpoint: Checkpoint | None = None) -> Job:
    return release(job, NOW, lease=mine(job), metrics=NOTHING, checkpoint=checkpoint, terms=TERMS)


def failed(job: Job, code: ErrorCode, *, retryable: bool = True) -> Job:
    error = Failure(code=code, message="", retryable=retryable)
    return fail(job, NOW, lease=mine(job), error=error, metrics=NOTHING, jitter=0, terms=TERMS)


# --- what can be gone on from -------------------------------------------------------------------

JOB = a_running_job(attempt=2)
OTHER_WEIGHTS = replace(JOB.scene, weights=Weights(label="another", sha256=sha("another")))
OTHER_LABEL = replace(JOB.scene, weights=replace(JOB.scene.weights, label="another"))


@pytest.mark.parametrize(
    ("new", "present", "refusal"),
    [
        ({}, None, None),
        ({}, {"step": 2}, None),
        ({}, {"step": 1}, None),
        ({"attempt": 1}, None, None),
        ({"step": 4}, None, None),
        ({"step": 1}, {"step": 2}, "there is one of step 2"),
        ({"recipe": sha("another")}, None, "another recipe"),
        ({"recipe": recipe_of(OTHER_WEIGHTS)}, None, "another recipe"),
        ({"recipe": recipe_of(OTHER_LABEL)}, None, "another recipe"),
        ({"attempt": 3}, None, "attempt 3"),
        ({"attempt": 0}, None, "attempt 0"),
        ({"step": 0}, None, "step 0 of 4"),
        ({"step": -1}, None, "step -1 of 4"),
        ({"step": 5}, None, "step 5 of 4"),
    ],
)
def test_a_checkpoint_is_refused_for_a_reason(
    new: dict[str, object], present: dict[str, int] | None, refusal: str | None
) -> None:
    reason = why_refused(
        replace(a_checkpoint(JOB), **new),  # type: ignore[arg-type]
        present=None if present is None else a_checkpoint(JOB, **present),
        recipe=JOB.recipe,
        attempt=JOB.attempt,
        steps=JOB.scene.all_steps,
    )
    assert (reason is None) == (refusal is None)
    assert (refusal or "") in (reason or "")


def test_steps_count_those_of_all_images() -> None:
    assert a_scene(steps=4, count=3).all_steps == 12


# --- T4: what a heartbeat brings ----------------------------------------------------------------


def with_latents(job: Job, *steps: int) -> Job:
    return replace(job, latents=tuple(Latents(attempt=job.attempt, step=s) for s in steps))


def test_a_heartbeat_brings_a_checkpoint_and_later_ones_replace_it() -> None:
    job = with_latents(a_running_job(), 2, 3)
    second, third = a_checkpoint(job, 2), a_checkpoint(job, 3)
    saved = renewed(job, second)
    assert saved.checkpoint == second
    assert renewed(saved, third).checkpoint == third
    assert renewed(saved, None).checkpoint == second


@pytest.mark.parametrize(
    "wrong",
    [
        {"recipe": sha("another")},
        {"step": 1},
        {"step": 4},
        {"attempt": 1},
        {"attempt": 3},
    ],
    ids=["another recipe", "an earlier step", "never announced", "another's", "of the future"],
)
def test_a_checkpoint_that_is_refused_leaves_the_one_that_there_is(
    wrong: dict[str, object],
) -> None:
    job = saved_at(a_running_job(attempt=2), 2)
    every = [Latents(attempt=a, step=s) for a in (1, 2, 3) for s in (1, 2, 3)]
    job = replace(job, latents=tuple(every))
    new = replace(a_checkpoint(job, 3), **wrong)  # type: ignore[arg-type]
    for after in (renewed(job, new), released(job, new)):
        assert after.checkpoint == job.checkpoint
    assert mine(renewed(job, new)).expires_at == NOW + TERMS.lease, "and the lease is renewed"


def test_latents_are_announced_once_before_they_are_stored() -> None:
    job = a_running_job()
    told = announce(job, NOW, lease=mine(job), step=3)
    assert told.latents == (Latents(attempt=1, step=3),)
    assert announce(told, NOW, lease=mine(job), step=3) is told


def test_of_a_job_that_is_to_be_canceled_nothing_more_is_stored() -> None:
    job = a_running_job(cancel_requested_at=NOW)
    with pytest.raises(CancelWished):
        announce(job, NOW, lease=mine(job), step=3)


def test_no_more_latents_are_stored_than_clean_up_can_remember() -> None:
    full = with_latents(a_running_job(), *range(MOST_LATENTS))
    with pytest.raises(CheckpointsSpent):
        announce(full, NOW, lease=mine(full), step=MOST_LATENTS)
    assert announce(full, NOW, lease=mine(full), step=7) is full
    almost = full.latents[1:]
    assert len(announced(almost, Latents(attempt=9, step=9))) == MOST_LATENTS


def test_a_checkpoint_that_cannot_be_used_is_forgotten_but_not_its_latents() -> None:
    job = saved_at(a_running_job())
    forgot = forget_checkpoint(job, NOW, lease=mine(job))
    assert (forgot.checkpoint, forgot.latents) == (None, job.latents)
    assert forget_checkpoint(forgot, NOW, lease=mine(job)) is forgot


@pytest.mark.parametrize(
    "job",
    [
        a_running_job(lease=a_lease("w1", 2)),
        a_running_job(lease=a_lease("w2", 1)),
        a_job(),
        *(a_job(status=status) for status in FINAL),
    ],
    ids=["a later attempt", "another holder", "requeued", *FINAL],
)
def test_whoever_lost_the_lease_saves_nothing(job: Job) -> None:
    lost = a_lease("w1", 1)
    with pytest.raises(LeaseLost):
        announce(job, NOW, lease=lost, step=1)
    with pytest.raises(LeaseLost):
        forget_checkpoint(job, NOW, lease=lost)
    new = a_checkpoint(job, attempt=1)
    with pytest.raises(LeaseLost):
        renew(job, NOW, lease=lost, progress=None, checkpoint=new, terms=TERMS)
    with pytest.raises(LeaseLost):
        release(job, NOW, lease=lost, metrics=NOTHING, checkpoint=new, terms=TERMS)


# --- what the next attempt has ------------------------------------------------------------------


def test_a_job_that_is_given_back_takes_the_last_steps_checkpoint_along() -> None:
    job = with_latents(saved_at(a_running_job(), 1), 1, 3)
    last = a_checkpoint(job, 3)
    assert released(job, last).checkpoint == last
    assert released(job).checkpoint == job.checkpoint


def test_the_next_attempt_finds_the_checkpoint_of_the_one_before() -> None:
    waiting = released(saved_at(a_running_job()))
    again = claim(waiting, NOW, holder="w2", terms=TERMS)
    assert (again.attempt, again.checkpoint) == (2, waiting.checkpoint)


def test_a_thief_goes_on_from_the_vanished_workers_checkpoint() -> None:
    silent = saved_at(a_running_job(lease=an_expired_lease()))
    stolen = claim(silent, NOW, holder="w2", terms=TERMS)
    assert (stolen.attempt, stolen.checkpoint) == (2, silent.checkpoint)


KEPT = {ErrorCode.ARTIFACT_STORE}


@pytest.mark.parametrize("code", ErrorCode)
def test_only_errors_outside_the_drawing_leave_its_checkpoint(code: ErrorCode) -> None:
    job = saved_at(a_running_job())
    retried = failed(job, code)
    assert retried.status is Status.QUEUED
    assert retried.checkpoint == (job.checkpoint if code in KEPT else None)
    assert retried.latents == job.latents
    assert (code in KEPT_AFTER) == (code in KEPT)


def test_a_retry_is_a_new_job_and_inherits_nothing() -> None:
    old = saved_at(a_running_job())
    new = enqueue(
        id="job_b", tenant=old.tenant, scene=old.scene, recipe=old.recipe, now=NOW,
        retention=seconds(1), retry_of=old.id,
    )  # fmt: skip
    assert (new.checkpoint, new.latents) == (None, ())


# --- what is left over --------------------------------------------------------------------------

LATE = NOW + TERMS.max_queued + seconds(1)
ENDS = {
    "succeeded": lambda job: succeed(
        job, NOW, lease=mine(job), images=(), metrics=NOTHING, terms=TERMS
    ),
    "failed": lambda job: failed(job, ErrorCode.ARTIFACT_STORE, retryable=False),
    "canceled while running": lambda job: grant_cancel(
        job, NOW, lease=mine(job), metrics=NOTHING, terms=TERMS
    ),
    "canceled while waiting": lambda job: cancel(released(job), NOW, terms=TERMS),
    "expired": lambda job: expire(released(job), LATE, terms=TERMS),
    "vanished": lambda job: claim(
        replace(job, failures=2, lease=an_expired_lease()), NOW, holder="w", terms=TERMS
    ),
    "interrupted too often": lambda job: released(replace(job, interruptions=10)),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_ended_job_has_no_checkpoint_and_its_latents_are_cleaned_up(end: str) -> None:
    job = saved_at(a_running_job(), 3)
    ended = ENDS[end](job)
    assert ended.status.final
    assert (ended.checkpoint, ended.latents) == (None, job.latents)
    assert ended.cleanup_due is not None
    assert f"jobs/{job.id}/a1/latents-3" in list(leftovers(ended))


def test_without_latents_a_first_attempt_that_succeeds_needs_no_clean_up() -> None:
    assert ENDS["succeeded"](a_running_job()).cleanup_due is None


def test_clean_up_names_the_latents_of_every_attempt_and_the_image_of_none_that_won() -> None:
    job = a_job(
        status=Status.SUCCEEDED,
        attempt=2,
        images_attempt=2,
        latents=(Latents(attempt=1, step=2), Latents(attempt=2, step=3)),
    )
    won = f"jobs/{job.id}/a2/0.png"
    first = [f"jobs/{job.id}/a1/0.png"]
    latents = [f"jobs/{job.id}/a1/latents-2", f"jobs/{job.id}/a2/latents-3"]
    assert list(leftovers(job)) == first + latents
    assert list(leftovers(replace(job, deleted_at=NOW))) == [*first, won, *latents]


def test_a_tombstone_forgets_its_latents_when_they_are_gone() -> None:
    job = replace(a_job(status=Status.FAILED), latents=(Latents(attempt=1, step=2),))
    assert finish_cleanup(job, NOW).latents == job.latents, "deleting it removes them once more"
    assert finish_cleanup(delete(job, NOW), NOW).latents == ()


# --- as documents -------------------------------------------------------------------------------


def test_a_document_of_an_older_illo_has_no_checkpoint_and_no_figures() -> None:
    job = saved_at(a_running_job(metrics=Metrics(gpu_seconds=1.0, steps=3, resumed_at=2)))
    document = json.loads(to_json(job))
    del document["checkpoint"], document["latents"]
    document["metrics"] = {"gpu_seconds": 1.0, "stages": None}
    old = from_json(Job, json.dumps(document))
    assert old == replace(job, checkpoint=None, latents=(), metrics=Metrics(gpu_seconds=1.0))


def test_a_record_of_latents_stays_small() -> None:
    job = with_latents(a_running_job(attempt=13), *range(300, 300 + MOST_LATENTS))
    assert len(to_json(job)) - len(to_json(replace(job, latents=()))) < 4096
