"""The rule of quotas, what is told of them over HTTP, and files from before there were any."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.rate_limits import LONGEST_WAIT, SECOND, USUAL_WAIT, limit_fields, wait_for_places
from shared.batches import Batch
from shared.documents import to_json
from shared.embedded.batch_store import SqliteBatchStore
from shared.embedded.database import Database
from shared.embedded.job_store import SqliteJobStore
from shared.embedded.schema import MIGRATIONS
from shared.errors import QuotaExceeded
from shared.quotas import Limit, Quota, Usage, charge, day_of, pending, rest_of_day
from tests.builders import NOW, FakeClock, a_batch, a_batch_scene, a_take, seconds

NOTHING = Usage(queued_jobs=0, jobs_today=0, gpu_seconds_today=0.0)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)

counts = st.integers(0, 50)
amounts = st.floats(0, 50, allow_nan=False)
quotas = st.builds(
    Quota,
    queued_jobs=st.none() | counts,
    jobs_per_day=st.none() | counts,
    gpu_seconds_per_day=st.none() | amounts,
)
usages = st.builds(Usage, queued_jobs=counts, jobs_today=counts, gpu_seconds_today=amounts)


def excess(quota: Quota, usage: Usage, jobs: int, now: datetime = NOW) -> QuotaExceeded | None:
    try:
        charge(quota, usage, jobs, now)
    except QuotaExceeded as full:
        return full
    return None


class TestCharge:
    @given(quotas, usages, counts)
    def test_it_refuses_exactly_what_exceeds_a_limit(
        self, quota: Quota, usage: Usage, jobs: int
    ) -> None:
        waits = quota.queued_jobs is None or usage.queued_jobs + jobs <= quota.queued_jobs
        made = quota.jobs_per_day is None or usage.jobs_today + jobs <= quota.jobs_per_day
        ceiling = quota.gpu_seconds_per_day
        drawn = ceiling is None or usage.gpu_seconds_today < ceiling
        fits = jobs == 0 or (waits and made and drawn)
        assert (excess(quota, usage, jobs) is None) == fits

    @given(usages, counts)
    def test_what_fits_is_added_to_what_is_used(self, usage: Usage, jobs: int) -> None:
        assert charge(Quota(), usage, jobs, NOW) == Usage(
            queued_jobs=usage.queued_jobs + jobs,
            jobs_today=usage.jobs_today + jobs,
            gpu_seconds_today=usage.gpu_seconds_today,
        )

    @given(quotas, usages, st.integers(0, 5), st.integers(0, 5))
    def test_what_fits_at_once_fits_one_after_the_other_and_leaves_the_same(
        self, quota: Quota, usage: Usage, some: int, more: int
    ) -> None:
        if excess(quota, usage, some + more) is None:
            after = charge(quota, usage, some, NOW)
            assert charge(quota, after, more, NOW) == charge(quota, usage, some + more, NOW)

    @pytest.mark.parametrize(
        ("quota", "usage", "limit"),
        [
            (Quota(queued_jobs=3), replace(NOTHING, queued_jobs=2), Limit.QUEUED_JOBS),
            (Quota(jobs_per_day=3), replace(NOTHING, jobs_today=2), Limit.JOBS_PER_DAY),
        ],
    )
    def test_the_last_place_is_given_and_no_more(
        self, quota: Quota, usage: Usage, limit: Limit
    ) -> None:
        charge(quota, usage, 1, NOW)
        full = excess(quota, usage, 2)
        assert full is not None
        assert full.limit == limit

    def test_no_jobs_fit_also_where_the_limits_were_lowered_below_what_is_used(self) -> None:
        quota = Quota(queued_jobs=1, jobs_per_day=1, gpu_seconds_per_day=1)
        usage = Usage(queued_jobs=2, jobs_today=2, gpu_seconds_today=2.0)
        assert charge(quota, usage, 0, NOW) == usage

    @pytest.mark.parametrize(("drawn", "fits"), [(9.99, True), (10.0, False), (10.01, False)])
    def test_seconds_are_used_up_when_they_reach_the_limit(self, drawn: float, fits: bool) -> None:
        quota, usage = Quota(gpu_seconds_per_day=10), replace(NOTHING, gpu_seconds_today=drawn)
        full = excess(quota, usage, 1)
        assert (full is None) == fits
        assert full is None or full.limit == Limit.GPU_SECONDS_PER_DAY

    def test_the_limit_that_lasts_longest_is_told(self) -> None:
        quota = Quota(queued_jobs=1, jobs_per_day=1)
        full = excess(quota, replace(NOTHING, queued_jobs=1, jobs_today=1), 1)
        assert full is not None
        assert (full.limit, full.retry_after) == (Limit.JOBS_PER_DAY, timedelta(hours=12))

    @pytest.mark.parametrize(
        ("quota", "limit"),
        [
            (Quota(queued_jobs=2, jobs_per_day=9), Limit.QUEUED_JOBS),
            (Quota(queued_jobs=9, jobs_per_day=2), Limit.JOBS_PER_DAY),
        ],
    )
    def test_more_than_ever_fits_is_not_put_off(self, quota: Quota, limit: Limit) -> None:
        full = excess(quota, NOTHING, 3)
        assert full is not None
        assert (full.limit, full.retry_after) == (limit, None)
        assert "send fewer" in str(full)

    @pytest.mark.parametrize(
        ("now", "left"),
        [
            (MIDNIGHT, timedelta(days=1)),
            (MIDNIGHT - timedelta(microseconds=1), timedelta(microseconds=1)),
            (MIDNIGHT.astimezone(timezone(timedelta(hours=-8))), timedelta(days=1)),
        ],
    )
    def test_a_day_is_put_off_until_midnight_utc(self, now: datetime, left: timedelta) -> None:
        assert rest_of_day(now) == left
        for quota, usage in (
            (Quota(jobs_per_day=1), replace(NOTHING, jobs_today=1)),
            (Quota(gpu_seconds_per_day=1), replace(NOTHING, gpu_seconds_today=1.0)),
        ):
            full = excess(quota, usage, 1, now)
            assert full is not None
            assert full.retry_after == left

    def test_a_day_begins_at_midnight_utc(self) -> None:
        assert day_of(MIDNIGHT) == MIDNIGHT
        assert day_of(MIDNIGHT - timedelta(microseconds=1)) == MIDNIGHT - timedelta(days=1)


@pytest.mark.parametrize(
    ("batch", "stored", "scenes"),
    [
        (a_batch(scene_count=5), 0, 5),
        (a_batch(scene_count=5, expanded=2), 0, 3),
        (a_batch(scene_count=5, expanded=2), 4, 1),
        (a_batch(scene_count=5, expanded=5), 5, 0),
        (a_batch(scene_count=5, expanded=2, canceled=True), 2, 0),
    ],
)
def test_scenes_without_a_job_are_pending_unless_they_were_canceled(
    batch: Batch, stored: int, scenes: int
) -> None:
    assert pending(batch, stored) == scenes


def test_no_scene_counts_twice_while_its_batch_is_expanded(tmp_path: Path) -> None:
    database = Database(tmp_path / "illo.sqlite", clock=FakeClock())
    jobs, batches = SqliteJobStore(database), SqliteBatchStore(database)
    batch = a_batch(scene_count=3)
    batches.create(batch)
    scenes = [a_batch_scene(batch, f"p{n}", position=n) for n in range(2)]
    batches.add_scenes(scenes, [a_take(scene) for scene in scenes])
    # a crash here leaves two jobs that the batch has not counted
    assert jobs.usage("ada") == replace(NOTHING, queued_jobs=3, jobs_today=3)


class TestFields:
    def test_each_limit_that_is_set_has_an_item(self) -> None:
        quota = Quota(queued_jobs=10, jobs_per_day=1000, gpu_seconds_per_day=99.5)
        usage = Usage(queued_jobs=4, jobs_today=50, gpu_seconds_today=0.2)
        assert limit_fields(quota, usage, MIDNIGHT - timedelta(hours=1)) == {
            "RateLimit-Policy": '"queued_jobs";q=10, "jobs_per_day";q=1000;w=86400, '
            '"gpu_seconds_per_day";q=100;w=86400',
            "RateLimit": '"queued_jobs";r=6, "jobs_per_day";r=950;t=3600, '
            '"gpu_seconds_per_day";r=100;t=3600',
        }

    def test_limits_that_are_not_set_are_not_told(self) -> None:
        told = limit_fields(Quota(jobs_per_day=5), NOTHING, MIDNIGHT)
        assert told == {
            "RateLimit-Policy": '"jobs_per_day";q=5;w=86400',
            "RateLimit": '"jobs_per_day";r=5;t=86400',
        }

    def test_what_is_left_is_never_less_than_nothing(self) -> None:
        lowered = limit_fields(Quota(queued_jobs=1), replace(NOTHING, queued_jobs=5), NOW)
        assert lowered["RateLimit"] == '"queued_jobs";r=0'

    @given(amounts, amounts)
    def test_no_seconds_are_told_to_be_left_exactly_when_they_are_used_up(
        self, ceiling: float, drawn: float
    ) -> None:
        quota, usage = Quota(gpu_seconds_per_day=ceiling), replace(NOTHING, gpu_seconds_today=drawn)
        told = limit_fields(quota, usage, NOW)["RateLimit"]
        assert (";r=0;" in told) == (excess(quota, usage, 1) is not None)

    def test_a_limit_beyond_the_syntax_is_told_as_the_largest_number(self) -> None:
        told = limit_fields(Quota(queued_jobs=10**20), NOTHING, NOW)
        assert told["RateLimit-Policy"] == '"queued_jobs";q=999999999999999'


@pytest.mark.parametrize(
    ("all_drawn", "waiting", "places", "wait"),
    [
        (None, 5, 1, USUAL_WAIT),
        (seconds(100), 0, 1, USUAL_WAIT),
        (seconds(100), 10, 1, seconds(10)),
        (seconds(100), 10, 5, seconds(50)),
        (seconds(100), 10, 20, seconds(100)),
        (seconds(0), 1, 1, SECOND),
        (seconds(10**6), 2, 1, LONGEST_WAIT),
    ],
)
def test_a_place_is_free_after_its_share_of_the_queue(
    all_drawn: timedelta | None, waiting: int, places: int, wait: timedelta
) -> None:
    assert wait_for_places(all_drawn, waiting=waiting, places=places) == wait


def test_batches_from_before_there_were_quotas_count_once_the_file_is_brought_up(
    tmp_path: Path,
) -> None:
    file = tmp_path / "illo.sqlite"
    batches = [
        a_batch(scene_count=7, expanded=2),
        a_batch(scene_count=5, canceled=True, canceling=True),
        a_batch(scene_count=4, tenant="eve"),
    ]
    with Database(file, clock=FakeClock(), migrations=MIGRATIONS[:1]).write() as connection:
        connection.executemany(
            "INSERT INTO batches (id, document, created_at, settled) VALUES (?, ?, 0, 0)",
            [(batch.id, to_json(batch)) for batch in batches],
        )
    jobs = SqliteJobStore(Database(file, clock=FakeClock()))
    assert jobs.usage("ada") == replace(NOTHING, queued_jobs=5, jobs_today=5)
    assert jobs.usage("eve") == replace(NOTHING, queued_jobs=4, jobs_today=4)
