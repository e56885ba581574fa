"""The words a job is described with: small frozen values, each with one meaning everywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Status(StrEnum):
    """Where a job stands; the last three are final and never left."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        """Whether nothing can change the outcome any more."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)


class Phase(StrEnum):
    """What a worker is doing for a running job."""

    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    UPLOADING = "uploading"


class Event(StrEnum):
    """What a job's timeline tells."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    STOLEN = "stolen"
    RELEASED = "released"
    RETRIED = "retried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


class ErrorCode(StrEnum):
    """Why a job failed."""

    INVALID_REFERENCE = "invalid_reference"
    REFERENCE_DAMAGED = "reference_damaged"
    OUT_OF_MEMORY = "out_of_memory"
    BLANK_IMAGE = "blank_image"
    WORKER_LOST = "worker_lost"
    INTERRUPTED_TOO_OFTEN = "interrupted_too_often"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    WEIGHTS_CHANGED = "weights_changed"
    ARTIFACT_STORE = "artifact_store"
    INTERNAL = "internal"


class Priority(StrEnum):
    """Which jobs go first; within one priority tenants take turns."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 goes first."""
        return list(Priority).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to try a job, until it expires; `token` is the attempt it was given for."""

    holder: str
    token: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a drawing has come; `steps` counts the steps of all of its images."""

    phase: Phase
    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.step / self.steps if self.steps else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """A drawing as it stood after a step, which an attempt stored or was about to store."""

    attempt: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Stored latents that the next attempt goes on from; `step` counts those of all images."""

    artifact: str
    generation: int
    attempt: int
    step: int
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnImage:
    """One stored result, found by name and generation."""

    artifact: str
    generation: int
    sha256: str
    bytes: int
    width: int
    height: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt ended; `retryable` when drawing it again may help."""

    code: ErrorCode
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of a timeline."""

    at: datetime
    event: Event
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a job took: seconds of a device over all attempts, and the rest of the last attempt.

    `steps` were denoised by it and `resumed_at` before it; `peak_bytes` is of the device's memory,
    `remembered` how many of the prompt and the references were not encoded again, `unread_tokens`
    how many of the prompt's last tokens were beyond what the weights read.
    """

    gpu_seconds: float = 0.0
    stages: Mapping[str, float] | None = None
    steps: int | None = None
    steps_per_second: float | None = None
    resumed_at: int | None = None
    peak_bytes: int | None = None
    remembered: int | None = None
    unread_tokens: int | None = None
