"""What a request about a batch may say."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator

from api.batch_faults import at_most_some_faults
from api.requests import (
    Count,
    FormatName,
    FromDigits,
    Guidance,
    Metadata,
    PageQuery,
    PriorityName,
    Prompt,
    References,
    Seed,
    Side,
    StatusName,
    Steps,
    Strict,
    Text,
)
from shared.batches import Reseed, SeedPolicy
from shared.scenes import ImageFormat
from shared.vocabulary import Priority

MOST_SCENES = 10_000
# 10,000 prompts of 4,000 characters that take 3 bytes each, as Chinese does, and what is around
# them. The server itself takes 128 MiB, and answers without a problem beyond that.
LARGEST_BATCH = 127 * 1024 * 1024


def _not_dots(key: str) -> str:
    if not key.strip("."):
        raise ValueError("a key becomes a file's name, so it cannot be dots alone")
    return key


def _not_too_many(scenes: object) -> object:
    # pydantic would read them all before it counts
    if isinstance(scenes, list) and len(scenes) > MOST_SCENES:
        raise ValueError(f"{len(scenes):,} scenes; at most {MOST_SCENES:,}")
    return scenes


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # never used, and no prompt that would be accepted


Key = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9._-]*$", examples=["p1"]),
    AfterValidator(_not_dots),
]
Style = Annotated[Text, Field(max_length=2000)]
SeedPolicyName = Annotated[SeedPolicy, Field(strict=False)]
ReseedName = Annotated[Reseed, Field(strict=False)]


class SharedFields(Strict):
    """What a scene may say, and its batch's defaults as well."""

    references: References = Field(
        default=[], description="Assets that the drawing must keep to; their order counts."
    )
    width: Side | None = None
    height: Side | None = None
    steps: Steps = 28
    guidance: Guidance = 2.5
    count: Count = Field(default=1, description="Images with the seeds seed, seed + 1, …")
    format: FormatName = ImageFormat.PNG
    style: Style | None = Field(default=None, description='Appended to the prompt after ". ".')
    priority: PriorityName = Priority.NORMAL
    metadata: Metadata = Field(default={}, description="Your own words, to find its jobs by.")


class SceneSource(SharedFields):
    """What one scene of a batch says; what it leaves out comes from the batch's defaults."""

    prompt: Prompt = Field(description="What to draw.")
    seed: Seed | None = Field(default=None, description="Else the batch's policy gives it one.")


class SceneEntry(SceneSource):
    """A scene of a new batch."""

    key: Key = Field(description="Its name within the batch, and that of its files.")


class SceneOverrides(SharedFields):
    """What a reprocess changes in every scene that it selects: only the fields that are given."""

    prompt: Prompt = Field(default="", json_schema_extra=_without_default)
    seed: Seed | None = None


class SeedWish(Strict):
    """How the scenes get their seeds."""

    policy: SeedPolicyName = SeedPolicy.PER_SCENE
    base: Seed | None = Field(default=None, description="Drawn by lot and told if not given.")


class BatchDefaults(SharedFields):
    """What every scene of a batch has unless it says otherwise."""

    seed: SeedWish = SeedWish()


class BatchRequest(Strict):
    """Scenes that belong together."""

    most_values: ClassVar[int] = 40 * MOST_SCENES  # a scene that says everything has 34

    title: Annotated[Text, Field(max_length=200)] = ""
    defaults: BatchDefaults = BatchDefaults()
    scenes: Annotated[
        list[SceneEntry],
        Field(min_length=1, max_length=MOST_SCENES),
        WrapValidator(at_most_some_faults),
        BeforeValidator(_not_too_many),
    ]
    metadata: Metadata = Field(default={}, description="Your own words, kept with the batch.")


class Selection(Strict):
    """Which scenes of a batch are meant, in exactly one way."""

    status: Annotated[list[StatusName], Field(min_length=1, max_length=5)] | None = None
    scenes: Annotated[list[Key], Field(min_length=1, max_length=MOST_SCENES)] | None = None
    stale: bool | None = None
    all: bool | None = None


class ReprocessRequest(Strict):
    """Draw selected scenes again; every run adds a take."""

    most_values: ClassVar[int] = MOST_SCENES + 1000

    select: Selection
    overrides: SceneOverrides = SceneOverrides()
    seed: ReseedName = Reseed.KEEP
    force: bool = Field(default=False, description="Also draw what has not changed.")
    dry_run: bool = Field(default=False, description="Only tell what would be done.")


class ScenesQuery(PageQuery):
    """Which scenes of a batch to list."""

    status: StatusName | None = Field(default=None, description="Of the newest take.")


class SheetQuery(Strict):
    """Which page of a contact sheet."""

    page: Annotated[int, Field(ge=1, le=MOST_SCENES), FromDigits] = 1
