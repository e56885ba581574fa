"""The transitions of a job, one by one: what they need, what they change, what they refuse."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shared.errors import (
    CancelWished,
    JobActive,
    JobError,
    JobFinal,
    JobNotDue,
    LeaseHeld,
    LeaseLost,
)
from shared.jobs import (
    CONFIRMED_WAKE,
    FIRST_WAKE,
    RETRY_BACKOFF,
    TIMELINE_LENGTH,
    TOMBSTONE_FOR,
    WAKE_BACKOFF,
    Job,
    cancel,
    claim,
    confirm_wake,
    delete,
    enqueue,
    expire,
    fail,
    finish_cleanup,
    grant_cancel,
    keep_until,
    lease_is_over,
    release,
    renew,
    stamp,
    succeed,
    supersede,
    wake,
)
from shared.vocabulary import ErrorCode, Event, Failure, Lease, Metrics, Phase, Progress, Status
from tests.builders import (
    NOW,
    TERMS,
    a_job,
    a_lease,
    a_reference,
    a_scene,
    an_expired_lease,
    an_image,
    seconds,
)

FINAL = [Status.SUCCEEDED, Status.FAILED, Status.CANCELED]
PASSING = Failure(code=ErrorCode.INTERNAL, message="it may pass", retryable=True)
LASTING = Failure(code=ErrorCode.INVALID_REFERENCE, message="it stays", retryable=False)
USED = Metrics(gpu_seconds=2.0, stages={"denoising": 1.5})


def last_event(job: Job) -> Event:
    return job.timeline[-1].event


def a_running_job(**what_matters: object) -> Job:
    return a_job(status=Status.RUNNING, **what_matters)


def mine(job: Job) -> Lease:
    assert job.lease is not None
    return job.lease


def failed(job: Job, error: Failure = PASSING, jitter: float = 0.0) -> Job:
    return fail(job, NOW, lease=mine(job), error=error, metrics=USED, jitter=jitter, terms=TERMS)


# --- T1, T2: into the queue, and waking ---------------------------------------------------------


def test_a_new_job_is_due_at_once_and_is_woken_again_if_its_message_gets_lost() -> None:
    job = enqueue(
        id="job_a", tenant="ada", scene=a_scene(), recipe="r", now=NOW, retention=timedelta(days=1)
    )
    assert (job.status, job.attempt, job.not_before) == (Status.QUEUED, 0, NOW)
    assert job.wake_at == NOW + FIRST_WAKE
    assert last_event(job) is Event.QUEUED


def test_a_confirmed_publish_lets_the_sweep_be_patient() -> None:
    assert confirm_wake(a_job(), NOW).wake_at == NOW + CONFIRMED_WAKE


@pytest.mark.parametrize(
    "job", [a_running_job(), a_job(attempt=1), *(a_job(status=s) for s in FINAL)]
)
def test_a_confirmation_that_comes_late_changes_nothing(job: Job) -> None:
    assert confirm_wake(job, NOW) is job


@pytest.mark.parametrize(("wakes", "pause"), [*enumerate(WAKE_BACKOFF), (9, WAKE_BACKOFF[-1])])
def test_each_wake_waits_longer_for_the_next(wakes: int, pause: timedelta) -> None:
    woken = wake(a_job(wakes=wakes, wake_at=NOW), NOW)
    assert (woken.wakes, woken.wake_at) == (wakes + 1, NOW + pause)


@pytest.mark.parametrize(
    "job", [a_job(wake_at=NOW + seconds(0.001)), a_running_job(), a_job(status=Status.FAILED)]
)
def test_no_wake_is_sent_before_its_time_or_to_a_job_that_does_not_wait(job: Job) -> None:
    with pytest.raises(JobNotDue):
        wake(job, NOW)


# --- T3: claiming and stealing ------------------------------------------------------------------


def test_a_claim_starts_an_attempt_under_a_lease() -> None:
    job = claim(a_job(), NOW, holder="w1", terms=TERMS)
    assert (job.status, job.attempt) == (Status.RUNNING, 1)
    assert job.lease == Lease(holder="w1", token=1, expires_at=NOW + TERMS.lease)
    assert last_event(job) is Event.CLAIMED


@pytest.mark.parametrize(
    ("job", "refusal"),
    [
        *((a_job(status=status), JobFinal) for status in FINAL),
        (a_job(not_before=NOW + seconds(0.001)), JobNotDue),
        (a_running_job(cancel_requested_at=NOW), CancelWished),
        (a_running_job(lease=a_lease()), LeaseHeld),
        (a_running_job(lease=a_lease(expires_at=NOW)), LeaseHeld),
        (a_running_job(lease=a_lease(expires_at=NOW - TERMS.steal_grace)), LeaseHeld),
    ],
)
def test_a_claim_is_refused(job: Job, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        claim(job, NOW, holder="w2", terms=TERMS)


def test_a_lease_can_be_stolen_only_after_the_grace() -> None:
    silent = a_running_job(lease=a_lease(expires_at=NOW - TERMS.steal_grace - seconds(0.001)))
    stolen = claim(silent, NOW, holder="w2", terms=TERMS)
    assert (stolen.attempt, stolen.failures, last_event(stolen)) == (2, 1, Event.STOLEN)
    assert mine(stolen).holder == "w2"


def test_a_stolen_attempt_is_charged_to_the_end_of_its_lease() -> None:
    silent = a_running_job(lease=an_expired_lease(), claimed_at=NOW - seconds(100))
    assert claim(silent, NOW, holder="w2", terms=TERMS).metrics.gpu_seconds == 40


def test_a_job_that_keeps_killing_its_worker_fails() -> None:
    spent = a_running_job(failures=2, lease=an_expired_lease())
    job = claim(spent, NOW, holder="w", terms=TERMS)
    assert job.status is Status.FAILED
    assert job.error is not None
    assert (job.error.code, job.attempt) == (ErrorCode.WORKER_LOST, 1)


# --- T4, T5: holding the lease and committing ---------------------------------------------------


def test_a_renewal_puts_off_the_end_and_tells_the_progress() -> None:
    far = Progress(phase=Phase.DENOISING, step=3, steps=4)
    job = a_running_job(lease=a_lease(expires_at=NOW + seconds(1)))
    renewed = renew(job, NOW, lease=mine(job), progress=far, terms=TERMS)
    assert (mine(renewed).expires_at, renewed.progress) == (NOW + TERMS.lease, far)


def test_a_commit_carries_the_images_of_its_attempt_and_all_seconds() -> None:
    job = a_running_job(metrics=Metrics(gpu_seconds=3.0))
    image = an_image(job)
    done = succeed(job, NOW, lease=mine(job), images=(image,), metrics=USED, terms=TERMS)
    assert (done.status, done.images, done.images_attempt) == (Status.SUCCEEDED, (image,), 1)
    assert (done.metrics.gpu_seconds, done.lease, done.finished_at) == (5.0, None, NOW)


def test_an_expired_lease_that_nobody_stole_may_commit() -> None:
    job = a_running_job(lease=an_expired_lease())
    done = succeed(job, NOW, lease=mine(job), images=(), metrics=USED, terms=TERMS)
    assert done.status is Status.SUCCEEDED


def test_a_commit_said_twice_is_one_commit() -> None:
    job = a_running_job()
    once = succeed(job, NOW, lease=mine(job), images=(), metrics=USED, terms=TERMS)
    assert succeed(once, NOW, lease=mine(job), images=(), metrics=USED, terms=TERMS) is once


OF_THE_HOLDER = {
    "renew": lambda job, lease: renew(job, NOW, lease=lease, progress=None, terms=TERMS),
    "succeed": lambda job, lease: succeed(
        job, NOW, lease=lease, images=(), metrics=USED, terms=TERMS
    ),
    "fail": lambda job, lease: fail(
        job, NOW, lease=lease, error=PASSING, metrics=USED, jitter=0, terms=TERMS
    ),
    "release": lambda job, lease: release(job, NOW, lease=lease, metrics=USED, terms=TERMS),
    "grant_cancel": lambda job, lease: grant_cancel(
        job, NOW, lease=lease, metrics=USED, terms=TERMS
    ),
}


@pytest.mark.parametrize("change", OF_THE_HOLDER)
@pytest.mark.parametrize(
    "job",
    [
        a_running_job(lease=a_lease("w1", 2), attempt=2),
        a_running_job(lease=a_lease("w2", 1)),
        a_job(),
        a_job(status=Status.FAILED),
        a_job(status=Status.CANCELED),
        a_job(status=Status.SUCCEEDED, images_attempt=2),
    ],
    ids=["a later attempt", "another holder", "requeued", "failed", "canceled", "succeeded"],
)
def test_a_zombie_changes_nothing(change: str, job: Job) -> None:
    with pytest.raises(LeaseLost):
        OF_THE_HOLDER[change](job, a_lease("w1", 1))


# --- T6, T7, T8: failing and giving back --------------------------------------------------------


@pytest.mark.parametrize(("failures", "pause"), [(0, RETRY_BACKOFF[0]), (1, RETRY_BACKOFF[1])])
def test_a_passing_error_sends_the_job_back_to_wait(failures: int, pause: timedelta) -> None:
    job = failed(a_running_job(failures=failures))
    assert (job.status, job.failures, job.lease) == (Status.QUEUED, failures + 1, None)
    assert job.not_before == job.wake_at == NOW + pause
    assert last_event(job) is Event.RETRIED


@pytest.mark.parametrize(("jitter", "factor"), [(-1.0, 0.8), (1.0, 1.2)])
def test_retries_of_jobs_that_failed_together_are_spread(jitter: float, factor: float) -> None:
    assert failed(a_running_job(), jitter=jitter).not_before == NOW + RETRY_BACKOFF[0] * factor


def test_the_third_failure_is_the_last() -> None:
    assert failed(a_running_job(failures=1)).status is Status.QUEUED
    assert failed(a_running_job(failures=2)).status is Status.FAILED


def test_a_lasting_error_fails_at_once_and_keeps_its_reason() -> None:
    job = failed(a_running_job(), LASTING)
    assert (job.status, job.error, last_event(job)) == (Status.FAILED, LASTING, Event.FAILED)


def test_a_job_given_back_is_due_at_once_and_has_not_failed() -> None:
    job = a_running_job()
    freed = release(job, NOW, lease=mine(job), metrics=USED, terms=TERMS)
    assert (freed.status, freed.failures, freed.interruptions) == (Status.QUEUED, 0, 1)
    assert freed.not_before == freed.wake_at == NOW
    assert last_event(freed) is Event.RELEASED


def test_a_job_that_comes_back_with_a_cancel_wish_is_canceled() -> None:
    wished = a_running_job(cancel_requested_at=NOW)
    freed = release(wished, NOW, lease=mine(wished), metrics=USED, terms=TERMS)
    assert [freed.status, failed(wished).status] == [Status.CANCELED] * 2


def test_ten_interruptions_are_borne_and_the_eleventh_is_not() -> None:
    tenth, eleventh = a_running_job(interruptions=9), a_running_job(interruptions=10)
    assert release(tenth, NOW, lease=mine(tenth), metrics=USED, terms=TERMS).status is Status.QUEUED
    ended = release(eleventh, NOW, lease=mine(eleventh), metrics=USED, terms=TERMS)
    assert ended.error is not None
    assert ended.error.code is ErrorCode.INTERRUPTED_TOO_OFTEN


# --- T9, T10: canceling -------------------------------------------------------------------------


def test_a_waiting_job_is_canceled_at_once() -> None:
    job = cancel(a_job(), NOW, terms=TERMS)
    assert (job.status, last_event(job)) == (Status.CANCELED, Event.CANCELED)


def test_of_a_running_job_canceling_is_a_wish_that_its_worker_grants() -> None:
    wished = cancel(a_running_job(), NOW, terms=TERMS)
    assert (wished.status, wished.cancel_requested_at) == (Status.RUNNING, NOW)
    granted = grant_cancel(wished, NOW, lease=mine(wished), metrics=USED, terms=TERMS)
    assert granted.status is Status.CANCELED


@pytest.mark.parametrize(
    "job", [a_running_job(cancel_requested_at=NOW), *(a_job(status=s) for s in FINAL)]
)
def test_canceling_again_or_too_late_changes_nothing(job: Job) -> None:
    assert cancel(job, NOW + seconds(5), terms=TERMS) is job


# --- The sweep's ends ---------------------------------------------------------------------------

LATE = NOW + TERMS.max_queued + seconds(1)
SLOW = NOW + TERMS.max_runtime


@pytest.mark.parametrize(
    ("job", "now", "status", "code"),
    [
        (a_job(), LATE, Status.FAILED, ErrorCode.EXPIRED),
        (a_running_job(lease=a_lease(expires_at=LATE)), LATE, Status.FAILED, ErrorCode.TIMEOUT),
        (
            a_running_job(failures=2, lease=an_expired_lease()),
            NOW,
            Status.FAILED,
            ErrorCode.WORKER_LOST,
        ),
        (
            a_running_job(lease=an_expired_lease(), cancel_requested_at=NOW),
            NOW,
            Status.CANCELED,
            None,
        ),
    ],
)
def test_the_sweep_ends_what_nobody_else_will(
    job: Job, now: object, status: Status, code: ErrorCode | None
) -> None:
    ended = expire(job, now, terms=TERMS)  # type: ignore[arg-type]
    assert (ended.status, ended.error and ended.error.code) == (status, code)


@pytest.mark.parametrize(
    ("job", "now"),
    [
        (a_job(), NOW + TERMS.max_queued),
        (a_running_job(lease=a_lease(expires_at=SLOW)), SLOW),
        (a_running_job(failures=1, lease=an_expired_lease()), NOW),
        (a_running_job(failures=2, lease=a_lease()), NOW),
        (a_running_job(cancel_requested_at=NOW, lease=a_lease()), NOW),
        *((a_job(status=status), LATE) for status in FINAL),
    ],
)
def test_the_sweep_leaves_alone_what_may_go_on(job: Job, now: object) -> None:
    with pytest.raises(JobNotDue):
        expire(job, now, terms=TERMS)  # type: ignore[arg-type]


# --- T11 and what is left over ------------------------------------------------------------------


@pytest.mark.parametrize("job", [a_job(), a_running_job()])
def test_an_active_job_is_not_deleted(job: Job) -> None:
    with pytest.raises(JobActive):
        delete(job, NOW)


def test_a_deleted_job_leaves_a_tombstone_without_its_contents() -> None:
    job = a_job(
        status=Status.SUCCEEDED,
        scene=a_scene("a secret", references=(a_reference(),)),
        images=(an_image(),),
        metadata={"book": "42"},
    )
    tomb = delete(job, NOW)
    assert (tomb.deleted_at, tomb.expire_at) == (NOW, NOW + TOMBSTONE_FOR)
    assert delete(tomb, NOW + seconds(9)) is tomb
    empty = finish_cleanup(tomb, NOW)
    assert (empty.scene.prompt, empty.scene.references, empty.images) == ("", (), ())
    assert (dict(empty.metadata), empty.cleanup_due) == ({}, None)


def test_a_first_attempt_that_succeeds_leaves_nothing_to_clean() -> None:
    first, second = a_running_job(), a_running_job(attempt=2)
    done = [
        succeed(job, NOW, lease=mine(job), images=(), metrics=USED, terms=TERMS)
        for job in (first, second)
    ]
    assert [job.cleanup_due for job in done] == [None, NOW + TERMS.cleanup_after]
    assert failed(a_running_job(), LASTING).cleanup_due == NOW + TERMS.cleanup_after
    assert cancel(a_job(), NOW, terms=TERMS).cleanup_due is None


def test_cleaning_up_keeps_a_job_that_was_not_deleted() -> None:
    job = a_job(status=Status.FAILED, cleanup_due=NOW, metadata={"book": "42"})
    assert finish_cleanup(job, NOW) == replace(job, cleanup_due=None)


def test_a_timeline_keeps_the_latest_twenty_moments() -> None:
    job = a_job()
    for _ in range(15):
        job = claim(job, NOW, holder="w", terms=TERMS)
        job = replace(
            release(job, NOW, lease=mine(job), metrics=USED, terms=TERMS), interruptions=0
        )
    assert len(job.timeline) == TIMELINE_LENGTH
    assert job.timeline[-1].attempt == 15


def test_small_changes_change_only_what_they_say() -> None:
    job = a_job(status=Status.FAILED)
    assert supersede(job, NOW) == replace(job, superseded=True)
    later = job.expire_at + seconds(1)
    assert keep_until(job, NOW, expire_at=later).expire_at == later
    assert keep_until(job, NOW, expire_at=NOW).expire_at == job.expire_at
    stamped = stamp(job, replace(job, wakes=1), NOW + seconds(1))
    assert (stamped.version, stamped.updated_at) == (job.version + 1, NOW + seconds(1))


def test_only_a_lease_past_its_grace_is_over() -> None:
    edge = a_running_job(lease=a_lease(expires_at=NOW - TERMS.steal_grace))
    assert not lease_is_over(edge, NOW, terms=TERMS)
    assert lease_is_over(edge, NOW + seconds(0.001), terms=TERMS)
    assert not lease_is_over(a_job(), NOW, terms=TERMS)


def test_every_refusal_of_a_transition_is_a_job_error() -> None:
    for refusal in (CancelWished, JobActive, JobFinal, JobNotDue, LeaseHeld, LeaseLost):
        assert issubclass(refusal, JobError)
