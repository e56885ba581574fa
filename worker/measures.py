"""What this worker counts for /metrics; no label carries a prompt, an id or anything unbounded."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.jobs import Job
from shared.stages import age
from shared.vocabulary import Status

STAGE_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
STEP_SECONDS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 30)


class Measures:
    """Every figure of one worker, in one registry; docs/metrics.md lists them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = where = registry or CollectorRegistry()
        self._attempts = Counter(
            "illo_attempts", "Attempts by the status they left", ["status"], registry=where
        )
        self._stages = Histogram(
            "illo_stage_seconds", "Seconds by stage of an attempt", ["stage"],
            buckets=STAGE_SECONDS, registry=where,
        )  # fmt: skip
        self._steps = Counter("illo_steps", "Denoising steps that were computed", registry=where)
        self._step_seconds = Histogram(
            "illo_step_seconds", "Mean seconds per denoising step of an attempt",
            buckets=STEP_SECONDS, registry=where,
        )  # fmt: skip
        self._resumed = Counter(
            "illo_resumed", "Attempts that went on from latents", registry=where
        )
        self._checkpoints = Counter(
            "illo_checkpoints", "Checkpoints stored, not stored or refused", ["outcome"],
            registry=where,
        )  # fmt: skip
        self._encodings = Counter(
            "illo_encodings", "Prompts and references that were remembered or encoded", ["outcome"],
            registry=where,
        )  # fmt: skip
        self._bytes = Counter("illo_stored_bytes", "Bytes stored", ["kind"], registry=where)
        self._peak = Gauge(
            "illo_peak_memory_bytes", "The device memory of the largest drawing", registry=where
        )
        self._start = Gauge(
            "illo_start_seconds", "Seconds by stage of this worker's start", ["stage"],
            registry=where,
        )  # fmt: skip
        self._fetched = Gauge(
            "illo_fetch_bytes_per_second", "How fast the weights came", ["connections"],
            registry=where,
        )  # fmt: skip
        self._largest = 0
        self._drawn = False

    def start_stage(self, name: str, seconds: float) -> None:
        """Tell how long a stage of the start took."""
        self._start.labels(name).set(seconds)

    def fetched(self, bytes_per_second: float, *, connections: int) -> None:
        """Tell how fast the weights came, over so many connections."""
        self._fetched.labels(str(connections)).set(bytes_per_second)

    def attempted(self, job: Job) -> None:
        """Count an attempt that was just committed, by what it left and what it took."""
        used = job.metrics
        if job.status is Status.SUCCEEDED and not self._drawn:
            self._drawn = True
            self.start_stage("until first image", age())
        self._attempts.labels(job.status.value).inc()
        for stage, seconds in (used.stages or {}).items():
            self._stages.labels(stage).observe(seconds)
        self._steps.inc(used.steps or 0)
        if used.steps_per_second:
            self._step_seconds.observe(1 / used.steps_per_second)
        if used.resumed_at:
            self._resumed.inc()
        if used.remembered is not None:
            everything = 1 + len(job.scene.references)  # the prompt counts as one
            self._encodings.labels("remembered").inc(used.remembered)
            self._encodings.labels("encoded").inc(max(0, everything - used.remembered))
        self._largest = max(self._largest, used.peak_bytes or 0)
        self._peak.set(self._largest)

    def image_stored(self, size: int) -> None:
        """Count an image."""
        self._bytes.labels("images").inc(size)

    def checkpoint_stored(self, size: int) -> None:
        """Count latents."""
        self._checkpoints.labels("stored").inc()
        self._bytes.labels("latents").inc(size)

    def checkpoint_not_stored(self) -> None:
        """Count latents that could not be stored."""
        self._checkpoints.labels("failed").inc()

    def checkpoint_refused(self) -> None:
        """Count a drawing that began at the start because its checkpoint could not be used."""
        self._checkpoints.labels("refused").inc()
