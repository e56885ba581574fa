"""What /metrics counts, in a registry of its own so that two apps do not share figures."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from shared.errors import StoreUnavailable
from shared.ports import JobStore, QueueCount

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Meters:
    """The counters of one app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.accepted = Counter("illo_jobs_accepted", "Jobs accepted.", registry=registry)
        self.requests = Counter(
            "illo_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "illo_http_request_seconds",
            "Time to an answer; long polls wait on purpose.",
            ("method", "route"),
            registry=registry,
        )
        self._unfinished = Gauge(
            "illo_jobs_unfinished",
            "Jobs that have not ended.",
            ("status", "priority"),
            registry=registry,
        )

    def expose(self, jobs: JobStore) -> bytes:
        """Write all figures as Prometheus reads them; the queue's are missing if it is away."""
        self._unfinished.clear()
        for count in _counts(jobs):
            self._unfinished.labels(count.status, count.priority).set(count.jobs)
        return generate_latest(self._registry)


def _counts(jobs: JobStore) -> list[QueueCount]:
    try:
        return jobs.counts()
    except StoreUnavailable:
        return []
