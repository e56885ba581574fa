"""What every JobStore promises of single jobs."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.errors import BadCursor, IdempotencyRecorded, JobExists, JobFinal, JobNotFound
from shared.jobs import Job, announce, delete, renew
from shared.ports import IdempotencyRecord, JobFilter
from shared.vocabulary import Metrics, Status
from tests.builders import (
    NOW,
    TERMS,
    a_batch_scene,
    a_checkpoint,
    a_job,
    a_record,
    a_reference,
    a_scene,
    a_take,
    an_answer,
    an_image,
    job_id,
    saved_at,
    sha,
)
from tests.contract.conftest import Backend

MINUTE = timedelta(minutes=1)
EVERYTHING_OF_ADA = JobFilter(tenant="ada")


def a_standing_record(backend: Backend, key: str, **what_matters: Any) -> IdempotencyRecord:
    """An answer that has not expired by the backend's own clock."""
    return a_record(key, **{"expire_at": backend.now + MINUTE} | what_matters)


def renamed(job: Job, now: datetime) -> Job:
    return replace(job, metadata={"name": "changed"})


def test_a_job_reads_as_it_was_written(backend: Backend) -> None:
    job = a_job(
        scene=a_scene("Mia — “hidden”\n雨", references=(a_reference(),)),
        metadata={"book": "42", "quote\"d'": "ü"},
        status=Status.SUCCEEDED,
        images=(an_image(),),
    )
    backend.jobs.create([job])
    assert backend.jobs.get(job.id) == job


def test_a_checkpoint_and_the_figures_of_a_job_read_as_they_were_written(
    backend: Backend,
) -> None:
    figures = Metrics(
        gpu_seconds=1.5, stages={"denoising": 1.0}, steps=12, steps_per_second=0.75,
        resumed_at=16, peak_bytes=2**40, remembered=3, unread_tokens=5,
    )  # fmt: skip
    job = replace(saved_at(a_job(status=Status.RUNNING), 3), metrics=figures)
    backend.jobs.create([job])
    assert backend.jobs.get(job.id) == job
    lease = job.lease
    assert lease is not None
    new = a_checkpoint(job, 4, generation=2**53)

    def save(job: Job, now: datetime) -> Job:
        told = announce(job, now, lease=lease, step=4)
        return renew(told, now, lease=lease, progress=None, checkpoint=new, terms=TERMS)

    saved = backend.jobs.update(job.id, save)
    assert saved == backend.jobs.get(job.id)
    assert saved.checkpoint == new
    assert [latents.step for latents in saved.latents] == [3, 4]


def test_a_job_that_was_never_stored_is_not_found(backend: Backend) -> None:
    with pytest.raises(JobNotFound, match=job_id("none")):
        backend.jobs.get(job_id("none"))
    with pytest.raises(JobNotFound):
        backend.jobs.update(job_id("none"), renamed)


@pytest.mark.parametrize("id", ["", "a/b", ".", "..", "__id__", "é\0", "x" * 1000])
def test_whatever_somebody_takes_for_an_id_is_not_found(backend: Backend, id: str) -> None:
    with pytest.raises(JobNotFound):
        backend.jobs.get(id)
    with pytest.raises(JobNotFound):
        backend.jobs.update(id, renamed)
    backend.jobs.update_all([id], renamed)
    backend.jobs.remove(id)
    assert not backend.jobs.needs_asset(id)
    assert backend.jobs.takes(id, [id]) == []
    assert backend.jobs.find(JobFilter(tenant=id, batch=id, metadata=(id, id)), limit=1).items == ()


def test_creating_is_all_or_nothing(backend: Backend) -> None:
    there, new = a_job(), a_job()
    backend.jobs.create([there])
    with pytest.raises(JobExists):
        backend.jobs.create([new, replace(there, tenant="eve")], record=a_record("k"))
    assert backend.jobs.get(there.id) == there
    with pytest.raises(JobNotFound):
        backend.jobs.get(new.id)
    assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) is None


def test_200_jobs_are_created_at_once_and_201_are_refused(backend: Backend) -> None:
    jobs = [a_job() for _ in range(201)]
    with pytest.raises(ValueError, match="200"):
        backend.jobs.create(jobs)
    backend.jobs.create(jobs[:200])
    assert sum(count.jobs for count in backend.jobs.counts()) == 200


def test_a_change_is_stored_and_counted(backend: Backend) -> None:
    job = a_job()
    backend.jobs.create([job])
    changed = backend.jobs.update(job.id, renamed)
    assert changed.metadata == {"name": "changed"}
    assert changed.version == job.version + 1
    assert changed == backend.jobs.get(job.id)


def test_a_change_gets_the_stored_job_and_the_stores_time(backend: Backend) -> None:
    job, seen = a_job(), []
    backend.jobs.create([job])

    def look(stored: Job, now: datetime) -> Job:
        seen.append((stored, now))
        return renamed(stored, now)

    stored = backend.jobs.update(job.id, look)
    assert seen[-1][0] == job
    assert seen[-1][1] == stored.updated_at
    assert abs(seen[-1][1] - backend.now) < MINUTE


def test_returning_the_same_job_writes_nothing(backend: Backend) -> None:
    job = a_job()
    backend.jobs.create([job])
    assert backend.jobs.update(job.id, lambda stored, now: stored) == job
    assert backend.jobs.get(job.id).version == job.version


def test_what_a_change_raises_comes_through_and_nothing_is_written(backend: Backend) -> None:
    job = a_job()
    backend.jobs.create([job])

    def refuse(stored: Job, now: datetime) -> Job:
        raise JobFinal("no")

    with pytest.raises(JobFinal, match="no"):
        backend.jobs.update(job.id, refuse)
    assert backend.jobs.get(job.id) == job
    assert backend.jobs.update(job.id, renamed).version == 2  # and no lock stayed behind


def test_a_removed_job_is_gone_and_removing_it_again_is_fine(backend: Backend) -> None:
    job = a_job(scene=a_scene(references=(a_reference(),)))
    backend.jobs.create([job])
    backend.jobs.remove(job.id)
    backend.jobs.remove(job.id)
    with pytest.raises(JobNotFound):
        backend.jobs.get(job.id)
    assert not backend.jobs.needs_asset(job.scene.references[0].asset)


class TestFind:
    def test_lists_a_tenants_jobs_newest_first(self, backend: Backend) -> None:
        old, new = a_job(created_at=backend.now - MINUTE), a_job(created_at=backend.now)
        backend.jobs.create([old, new, a_job(tenant="eve")])
        page = backend.jobs.find(EVERYTHING_OF_ADA, limit=10)
        assert page.items == (new, old)
        assert page.cursor is None

    @pytest.mark.parametrize("same_instant", [True, False])
    def test_pages_show_every_job_once(self, backend: Backend, same_instant: bool) -> None:
        ages = [timedelta() if same_instant else MINUTE * n for n in range(7)]
        jobs = [a_job(created_at=backend.now - age) for age in ages]
        backend.jobs.create(jobs)
        listed, cursor = list[Job](), None
        for expected in (3, 3, 1):
            page = backend.jobs.find(EVERYTHING_OF_ADA, limit=3, cursor=cursor)
            assert len(page.items) == expected
            listed += page.items
            cursor = page.cursor
        assert cursor is None
        assert sorted(job.id for job in listed) == sorted(job.id for job in jobs)

    def test_a_full_last_page_has_no_cursor(self, backend: Backend) -> None:
        backend.jobs.create([a_job(), a_job()])
        assert backend.jobs.find(EVERYTHING_OF_ADA, limit=2).cursor is None

    def test_jobs_that_arrive_between_pages_shift_nothing(self, backend: Backend) -> None:
        jobs = [a_job(created_at=backend.now - MINUTE * n) for n in range(4)]
        backend.jobs.create(jobs)
        first = backend.jobs.find(EVERYTHING_OF_ADA, limit=2)
        backend.jobs.create([a_job(created_at=backend.now + MINUTE)])
        second = backend.jobs.find(EVERYTHING_OF_ADA, limit=2, cursor=first.cursor)
        assert (*first.items, *second.items) == tuple(jobs)

    def test_filters_narrow_the_list(self, backend: Backend) -> None:
        now = backend.now
        wanted = a_job(
            created_at=now,
            status=Status.FAILED,
            metadata={"book": "42"},
            batch="bat_1",
            scene_key="p",
            take=1,
        )
        old = a_job(created_at=now - MINUTE)
        other = a_job(created_at=now, metadata={"book": "43", "42": "book"})
        backend.jobs.create([wanted, old, other])

        def found(**filter: object) -> list[str]:
            page = backend.jobs.find(JobFilter(tenant="ada", **filter), limit=10)  # type: ignore[arg-type]
            return [job.id for job in page.items]

        assert found(status=Status.FAILED) == [wanted.id]
        assert found(batch="bat_1") == [wanted.id]
        assert found(metadata=("book", "42")) == [wanted.id]
        assert found(metadata=("bo", "42")) == []
        assert sorted(found(created_after=now - MINUTE / 2)) == sorted([wanted.id, other.id])
        assert found(created_after=now) == []
        assert found(status=Status.FAILED, metadata=("book", "43")) == []

    def test_metadata_names_are_compared_as_they_are(self, backend: Backend) -> None:
        strange = {'a."b"': "1", "$": "2", "%": "3", "a=b": "c", "long": "雨" * 512}
        job = a_job(metadata=strange)
        others = {"a": "b=c", "x": "3", "long": "雨" * 511 + "風"}
        backend.jobs.create([job, a_job(metadata=others)])
        for pair in strange.items():
            page = backend.jobs.find(JobFilter(tenant="ada", metadata=pair), limit=10)
            assert page.items == (job,)

    def test_a_cursor_fits_only_its_own_list(self, backend: Backend) -> None:
        for tenant in ("ada", "eve"):
            backend.jobs.create([a_job(tenant=tenant) for _ in range(3)])
        cursor = backend.jobs.find(EVERYTHING_OF_ADA, limit=1).cursor
        assert cursor
        others = [
            JobFilter(tenant="eve"),
            JobFilter(tenant="ada", status=Status.QUEUED),
            JobFilter(tenant="ada", metadata=("a", "b")),
        ]
        for other in others:
            with pytest.raises(BadCursor):
                backend.jobs.find(other, limit=1, cursor=cursor)

    def test_a_cursor_that_was_tampered_with_is_refused(self, backend: Backend) -> None:
        backend.jobs.create([a_job() for _ in range(3)])
        cursor = backend.jobs.find(EVERYTHING_OF_ADA, limit=1).cursor
        assert cursor
        flipped = [
            cursor[:at] + ("B" if cursor[at] != "B" else "C") + cursor[at + 1 :]
            for at in range(len(cursor))
        ]
        for bad in [*flipped, "", "x", "é", cursor + "=", cursor + "A", cursor[:-1], "\0", "A" * 9]:
            with pytest.raises(BadCursor):
                backend.jobs.find(EVERYTHING_OF_ADA, limit=1, cursor=bad)
        assert backend.jobs.find(EVERYTHING_OF_ADA, limit=1, cursor=cursor).items


class TestDeletedJobs:
    def test_are_read_but_never_listed_or_counted(self, backend: Backend) -> None:
        job = a_take(a_batch_scene("bat_1"), status=Status.SUCCEEDED)
        backend.jobs.create([job])
        assert backend.jobs.batch_counts("bat_1") == {Status.SUCCEEDED: 1}
        tombstone = backend.jobs.update(job.id, delete)
        assert backend.jobs.get(job.id) == tombstone
        assert backend.jobs.find(EVERYTHING_OF_ADA, limit=10).items == ()
        assert backend.jobs.batch_counts("bat_1") == {}
        assert backend.jobs.takes("bat_1") == []

    def test_are_found_by_the_clean_up(self, backend: Backend) -> None:
        job = a_job(status=Status.SUCCEEDED)
        backend.jobs.create([job])
        backend.jobs.update(job.id, delete)
        assert [found.id for found in backend.jobs.untidy(10)] == [job.id]


class TestIdempotency:
    def test_an_answer_is_recalled_byte_for_byte(self, backend: Backend) -> None:
        answer = an_answer(b'{"a":\xff\x00}\r\n')
        record = a_standing_record(backend, "k", answer=answer)
        backend.jobs.create([a_job()], record=record)
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) == record

    @pytest.mark.parametrize(
        "other", [("eve", "/v1/jobs", "k"), ("ada", "/v1/batches", "k"), ("ada", "/v1/jobs", "l")]
    )
    def test_a_key_belongs_to_a_tenant_and_a_path(
        self, backend: Backend, other: tuple[str, str, str]
    ) -> None:
        record = a_standing_record(backend, "k")
        backend.jobs.remember(record)
        tenant, path, key = other
        assert backend.jobs.recall(tenant, path, sha(key)) is None
        backend.jobs.remember(a_standing_record(backend, key, tenant=tenant, path=path))
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) == record

    def test_a_used_key_brings_its_record_and_writes_nothing(self, backend: Backend) -> None:
        first, late = a_standing_record(backend, "k"), a_job()
        backend.jobs.remember(first)
        with pytest.raises(IdempotencyRecorded) as raised:
            backend.jobs.create([late], record=replace(first, request_sha256=sha("other")))
        assert raised.value.record == first
        with pytest.raises(JobNotFound):
            backend.jobs.get(late.id)
        with pytest.raises(IdempotencyRecorded):
            backend.jobs.remember(first)

    def test_the_key_is_looked_at_before_the_ids(self, backend: Backend) -> None:
        job, record = a_job(), a_standing_record(backend, "k")
        backend.jobs.create([job], record=record)
        with pytest.raises(IdempotencyRecorded):
            backend.jobs.create([job], record=record)

    def test_an_expired_answer_is_forgotten_and_replaced(self, backend: Backend) -> None:
        backend.jobs.remember(a_record("k", expire_at=backend.now - MINUTE))
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) is None
        again = a_standing_record(backend, "k", request_sha256=sha("again"))
        backend.jobs.create([a_job()], record=again)
        assert backend.jobs.recall("ada", "/v1/jobs", sha("k")) == again


class TestUpdateAll:
    def test_it_changes_every_job_that_allows_it(self, backend: Backend) -> None:
        open_, gone = [a_job(), a_job()], job_id("gone")
        closed = a_job(status=Status.SUCCEEDED)
        backend.jobs.create([*open_, closed])

        def change(job: Job, now: datetime) -> Job:
            if job.status.final:
                raise JobFinal(job.id)
            return renamed(job, now)

        backend.jobs.update_all([open_[0].id, gone, closed.id, open_[1].id], change)
        changed = [backend.jobs.get(job.id) for job in open_]
        assert [(job.metadata["name"], job.version) for job in changed] == [("changed", 2)] * 2
        assert backend.jobs.get(closed.id) == closed

    def test_200_jobs_fit_and_201_are_refused(self, backend: Backend) -> None:
        ids = [job_id(number) for number in range(201)]
        backend.jobs.update_all(ids[:200], renamed)
        with pytest.raises(ValueError, match="200"):
            backend.jobs.update_all(ids, renamed)

    def test_200_jobs_of_many_words_are_changed(self, backend: Backend) -> None:
        words = {f"word {n}": "🌩" * 500 for n in range(16)}
        jobs = [a_job(scene=a_scene("🌩" * 4000), metadata=words) for _ in range(200)]
        for start in range(0, 200, 20):
            backend.jobs.create(jobs[start : start + 20])
        ids = [job.id for job in jobs]
        backend.jobs.update_all(ids, lambda job, now: replace(job, wakes=1))
        changed = backend.jobs.get_all(ids)
        assert changed.keys() == set(ids)
        assert {(job.wakes, job.version) for job in changed.values()} == {(1, 2)}

    def test_a_job_that_is_named_twice_is_changed_once(self, backend: Backend) -> None:
        job = a_job()
        backend.jobs.create([job])
        backend.jobs.update_all([job.id, job.id], renamed)
        assert backend.jobs.get(job.id).version == 2


class TestGetAll:
    def test_it_finds_those_that_are_there(self, backend: Backend) -> None:
        here, deleted = a_job(), a_job(status=Status.SUCCEEDED, deleted_at=NOW)
        other = a_job()
        backend.jobs.create([here, deleted, other])
        ids = [deleted.id, job_id("gone"), here.id, deleted.id, "job_%", ""]
        assert backend.jobs.get_all(ids) == {here.id: here, deleted.id: deleted}
        assert backend.jobs.get_all([]) == {}

    def test_it_finds_more_than_one_read_takes(self, backend: Backend) -> None:
        jobs = [a_job() for _ in range(401)]
        for start in range(0, 401, 200):
            backend.jobs.create(jobs[start : start + 200])
        assert backend.jobs.get_all([job.id for job in jobs]) == {job.id: job for job in jobs}
