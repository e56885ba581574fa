"""What answers about batches look like."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.batch_orders import NoRoom
from api.responses import CostBody, ErrorBody, ImageBody, InputBody, Shown
from shared.batches import BatchStatus, Skip
from shared.vocabulary import Status


class BatchProgressBody(Shown):
    """How far a batch has come."""

    finished: int = Field(description="Scenes whose newest take has ended, well or not.")
    fraction: float


class BatchBody(Shown):
    """A batch as it stands."""

    id: str
    object: Literal["batch"] = "batch"
    title: str
    status: BatchStatus
    created_at: datetime
    scene_count: int
    counts: dict[Status, int] = Field(
        description="Scenes by the status of their newest take; while accepting, not all have one."
    )
    stale: int = Field(description="Scenes that now want another picture than the accepted one.")
    progress: BatchProgressBody
    eta: datetime | None
    gpu_seconds: float
    cost: CostBody
    defaults: dict[str, Any]
    metadata: dict[str, str]


class TakeBody(Shown):
    """One job's result for a scene."""

    take: int
    job: str
    status: Status
    accepted: bool
    seed: int
    recipe: str
    images: list[ImageBody]
    error: ErrorBody | None
    created_at: datetime
    finished_at: datetime | None


class SceneBody(Shown):
    """A scene of a batch: what it wants, and what was drawn."""

    key: str
    object: Literal["scene"] = "scene"
    batch: str
    position: int
    revision: int
    status: Status | None = Field(description="Of the newest take.")
    stale: bool
    input: InputBody
    newest: TakeBody | None
    accepted: TakeBody | None


class SceneTakesBody(SceneBody):
    """A scene with every take."""

    takes: list[TakeBody]


class ScenesBody(Shown):
    """A page of scenes, in the order in which they were submitted."""

    object: Literal["list"] = "list"
    data: list[SceneBody]
    next_cursor: str | None


class SkippedBody(Shown):
    """A selected scene that gets no new take."""

    key: str
    reason: Skip | NoRoom


class ReprocessBody(Shown):
    """What a reprocess does, or would do."""

    object: Literal["reprocess"] = "reprocess"
    batch: str
    dry_run: bool
    selected: int = Field(description="Scenes that get a new take; skipped ones come on top.")
    skipped: list[SkippedBody]
    jobs: list[str]


class ResultLine(Shown):
    """One line of results.jsonl: the take that stands for a scene."""

    key: str
    status: Status | None
    take: int | None
    job: str | None
    images: list[ImageBody]
    seed: int
    recipe: str
    error: ErrorBody | None
