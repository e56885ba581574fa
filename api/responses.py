"""What answers look like: one model each, from which OpenAPI is made."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.scenes import ImageFormat
from shared.vocabulary import ErrorCode, Event, Phase, Priority, Status
from shared.workers import WorkerState


class Shown(BaseModel):
    """An answer's model: what it does not name is not there."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InputBody(Shown):
    """What is drawn, with nothing left open."""

    prompt: str
    references: list[str]
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    count: int
    format: ImageFormat


class EtaBody(Shown):
    """When a job will start and finish, as far as one can tell."""

    start: datetime | None
    finish: datetime | None


class QueueBody(Shown):
    """Why a job waits; lists leave out position and eta."""

    position: int | None = Field(description="1 goes next; 0 is being drawn.")
    reason: str | None
    eta: EtaBody | None


class ProgressBody(Shown):
    """How far a drawing has come."""

    phase: Phase
    step: int
    steps: int
    fraction: float


class ImageBody(Shown):
    """One result."""

    index: int
    url: str
    content_type: str
    width: int
    height: int
    bytes: int
    sha256: str
    seed: int


class ErrorBody(Shown):
    """Why the job, or its last attempt, failed."""

    code: ErrorCode
    message: str
    retryable: bool


class MetricsBody(Shown):
    """What a job took: the seconds of all its attempts, and the rest of the last one."""

    gpu_seconds: float = Field(description="Of all attempts together.")
    stages: dict[str, float] | None = Field(description="Seconds by phase, and image_encoding.")
    steps: int | None = Field(description="Denoising steps computed, over all images.")
    steps_per_second: float | None
    resumed_at: int | None = Field(
        description="Steps that an earlier attempt had done and that were not done again."
    )
    peak_bytes: int | None = Field(description="Of the device's memory; null on a CPU.")
    remembered: int | None = Field(
        description="How many of the prompt and the references were not encoded again."
    )
    unread_tokens: int | None = Field(
        description="Tokens at the prompt's end that are more than the weights read; 0 if all were."
    )


class CostBody(Shown):
    """What a job cost so far; null while no price is set."""

    currency: Literal["USD"]
    amount: float | None


class WeightsBody(Shown):
    """Which weights are meant."""

    label: str
    sha256: str


class BatchPlaceBody(Shown):
    """Where in a batch a job belongs."""

    id: str
    scene: str
    take: int


class MomentBody(Shown):
    """One line of a timeline."""

    at: datetime
    event: Event
    attempt: int


class JobBody(Shown):
    """A job as it stands."""

    id: str
    object: Literal["job"]
    status: Status
    version: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime
    input: InputBody
    attempt: int
    queue: QueueBody | None
    progress: ProgressBody | None
    images: list[ImageBody]
    error: ErrorBody | None
    metrics: MetricsBody
    cost: CostBody
    weights: WeightsBody
    batch: BatchPlaceBody | None
    timeline: list[MomentBody]
    metadata: dict[str, str]
    priority: Priority
    cancel_requested_at: datetime | None
    retry_of: str | None


class JobsBody(Shown):
    """A page of jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobBody]
    next_cursor: str | None


class AssetBody(Shown):
    """An uploaded image."""

    id: str
    object: Literal["asset"]
    width: int
    height: int
    bytes: int
    content_type: str
    sha256: str
    created_at: datetime
    expires_at: datetime | None = Field(description="null while a batch needs it.")


class AssetsBody(Shown):
    """A page of assets, newest first."""

    object: Literal["list"] = "list"
    data: list[AssetBody]
    next_cursor: str | None


class ControlBody(Shown):
    """The operator's switch."""

    object: Literal["queue_control"]
    paused: bool
    reason: str | None
    changed_at: datetime | None


class QueueOverviewBody(Shown):
    """The queue as a whole."""

    object: Literal["queue"]
    paused: bool
    reason: str | None = Field(description="Why nothing new is drawn at the moment.")
    changed_at: datetime | None
    counts: dict[Literal["queued", "running"], dict[Priority, int]]
    oldest_queued_seconds: float | None
    gpu_seconds_today: float
    gpu_seconds_per_day: float


class WorkerBody(Shown):
    """A worker as it last told of itself."""

    id: str
    object: Literal["worker"]
    state: WorkerState
    stage: str | None
    fraction: float
    error: str | None
    job: str | None
    weights: WeightsBody | None
    device: str | None
    memory_bytes: int | None
    seconds_per_megapixel_step: float | None
    started_at: datetime
    last_seen: datetime


class WorkersBody(Shown):
    """The workers heard of, the last started first."""

    object: Literal["list"] = "list"
    data: list[WorkerBody]


class HealthBody(Shown):
    """That the service is there."""

    status: Literal["ok"] = "ok"
