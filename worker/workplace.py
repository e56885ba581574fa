"""What a worker draws with, and under which terms."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.jobs import Terms
from shared.ports import ArtifactStore, JobStore
from worker.drawing import Pipeline
from worker.heartbeat import Pace
from worker.measures import Measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Everything of this process that one attempt needs."""

    holder: str
    jobs: JobStore
    artifacts: ArtifactStore
    pipeline: Pipeline
    terms: Terms
    pace: Pace
    stopping: threading.Event
    hung: Callable[[str], None]
    illo_version: str
    measures: Measures = field(default_factory=Measures)
