"""A worker's surroundings: the real embedded store, and a pipeline that pretends."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.embedded.artifact_store import FileArtifactStore
from shared.embedded.database import Database
from shared.embedded.job_store import SqliteJobStore
from shared.jobs import Job, Terms, claim
from tests.builders import a_job
from tests.fakes import FakePipeline
from worker.desk import Desk
from worker.heartbeat import Pace
from worker.measures import Measures
from worker.workplace import Workplace

TERMS = Terms(lease=timedelta(seconds=20))
PACE = Pace(heartbeat=5.0, progress=0.05, step_timeout=20.0)


@dataclass
class Surroundings:
    """A store, a place for artifacts, and workers made on demand."""

    jobs: SqliteJobStore
    artifacts: FileArtifactStore
    hung: list[str] = field(default_factory=list)

    def workplace(self, **what_matters: object) -> Workplace:
        given: dict[str, object] = {
            "holder": "w1",
            "jobs": self.jobs,
            "artifacts": self.artifacts,
            "pipeline": FakePipeline(),
            "terms": TERMS,
            "pace": PACE,
            "stopping": threading.Event(),
            "hung": self.hung.append,
            "illo_version": "0",
        }
        return Workplace(**given | what_matters)  # type: ignore[arg-type]

    def desk(self, at: Workplace | None = None, **what_matters: object) -> Desk:
        given: dict[str, object] = {
            "held": lambda: None, "changed": lambda job, rate: None, "window": None
        }  # fmt: skip
        return Desk(at or self.workplace(), **given | what_matters)  # type: ignore[arg-type]

    def queued(self, **what_matters: object) -> Job:
        """Store a job that is due now."""
        now = SystemClock().now()
        times = {"created_at": now, "not_before": now, "wake_at": now}
        job = a_job(**times | what_matters)
        self.jobs.create([job])
        return job

    def claimed(self, holder: str = "w1", **what_matters: object) -> Job:
        """Store a job that a worker has just claimed."""
        job = self.queued(**what_matters)
        return self.jobs.update(
            job.id, lambda job, now: claim(job, now, holder=holder, terms=TERMS)
        )


def value(measures: Measures, name: str, **labels: str) -> float:
    """What a worker's figure stands at."""
    return measures.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return Surroundings(
        jobs=SqliteJobStore(Database(tmp_path / "illo.sqlite", clock=SystemClock())),
        artifacts=FileArtifactStore(tmp_path / "artifacts"),
    )


@pytest.fixture
def in_background() -> Callable[[Callable[[], object]], threading.Thread]:
    """Run something in a thread that does not outlive the test unnoticed."""

    def start(work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    return start
