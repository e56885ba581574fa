"""What a request may say: strict models, and the parsing that names every fault by pointer."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from api.batch_faults import PLAIN, TELLING, faults_of, quoted
from api.problems import Fault, invalid, not_available, pointer
from api.strict_json import LONGEST_NAME, MOST_NAMES
from shared.scenes import MOST_REFERENCES, ImageFormat
from shared.vocabulary import Priority, Status

SMALLEST_SIDE, LARGEST_SIDE, SIDE_STEP = 64, 2048, 16
LARGEST_SEED = 2**32 - 1
SIDES_TOLD = (
    "Pixels; give both sides or neither. Without them a picture has the first reference's shape, "
    "else is square, with the area that the weights were made for. A service limits the area of "
    "a picture, to 1,600,000 pixels unless it is set otherwise; a refusal says to how many."
)

Model = TypeVar("Model", bound="Strict")


def _digits(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("should be a whole number")
    return int(text) if isinstance(text, str) else text


def _instant(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("should say its time zone, like 2026-01-31T12:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("should lie in the years 1 to 9999, in UTC") from None


def _written_instant(text: object) -> object:
    if isinstance(text, str) and not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", text):
        raise ValueError("should be a date and time, like 2026-01-31T12:00:00Z")
    return text


Text = Annotated[str, Field(pattern=PLAIN)]
Prompt = Annotated[str, Field(pattern=TELLING, min_length=1, max_length=4000)]
Side = Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE, multiple_of=SIDE_STEP)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Steps = Annotated[int, Field(ge=1, le=100)]
Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=4)]
AssetId = Annotated[Text, Field(max_length=200, examples=["ast_" + "0" * 64])]
References = Annotated[list[AssetId], Field(max_length=MOST_REFERENCES)]
MOST_METADATA = 16_384  # bytes: fifty jobs with as much go into one commit


def _brief(metadata: dict[str, str]) -> dict[str, str]:
    size = sum(len(text.encode()) for pair in metadata.items() for text in pair)
    if size > MOST_METADATA:
        raise ValueError(f"{size:,} bytes in all, as UTF-8; {MOST_METADATA:,} are the most")
    return metadata


Metadata = Annotated[
    dict[
        Annotated[Text, Field(min_length=1, max_length=64)],
        Annotated[Text, Field(max_length=512)],
    ],
    Field(max_length=16),
    AfterValidator(_brief),
]
# Strict models take members, not their values, of an enum; JSON has only the values.
FormatName = Annotated[ImageFormat, Field(strict=False)]
PriorityName = Annotated[Priority, Field(strict=False)]
StatusName = Annotated[Status, Field(strict=False)]
# Query strings have only text. It comes after a number's limits: only then are they described.
FromDigits = BeforeValidator(_digits)
QueryInstant = Annotated[
    datetime,
    BeforeValidator(_written_instant),
    AfterValidator(_instant),
    Field(strict=False),
]


class Strict(BaseModel):
    """A request model: no conversions, no unknown fields; `later` names fields to come.

    A body may have `most_values`, far more than any that has a meaning.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    later: ClassVar[Sequence[str]] = ()
    most_values: ClassVar[int] = 1000


class Empty(Strict):
    """Nothing at all."""


class SceneFields(Strict):
    """What a request may say about one drawing; `resolve_scene` fills in the rest."""

    prompt: Prompt = Field(description="What to draw.")
    references: References = Field(
        default=[],
        description="Assets that the drawing must keep to, up to four; their order counts.",
    )
    width: Side | None = Field(default=None, description=SIDES_TOLD)
    height: Side | None = Field(default=None, description=SIDES_TOLD)
    steps: Steps = 28
    guidance: Guidance = 2.5
    seed: Seed | None = Field(default=None, description="Drawn by lot and told if not given.")
    count: Count = Field(default=1, description="Images with the seeds seed, seed + 1, …")
    format: FormatName = ImageFormat.PNG


class JobRequest(SceneFields):
    """One drawing to be done."""

    later = ("webhook",)

    priority: PriorityName = Priority.NORMAL
    metadata: Metadata = Field(default={}, description="Your own words, to find the job by.")


class PauseRequest(Strict):
    """Why nothing new is to be drawn for now."""

    reason: Annotated[Text, Field(max_length=500)] = ""


class PageQuery(Strict):
    """Which part of a list is wanted."""

    limit: Annotated[int, Field(ge=1, le=200), FromDigits] = 50
    cursor: Annotated[Text, Field(max_length=1000)] | None = None


class JobsQuery(PageQuery):
    """Which jobs to list."""

    status: StatusName | None = None
    batch: Annotated[Text, Field(max_length=200)] | None = None
    metadata: Metadata | None = Field(
        default=None, max_length=1, description="One pair: metadata[key]=value."
    )
    created_after: QueryInstant | None = None


class WaitQuery(Strict):
    """How long the answer may wait for a change."""

    wait: Annotated[int, Field(ge=0, le=60, description="Seconds."), FromDigits] = 0


def parse(model: type[Model], document: object) -> Model:
    """Read a document as a model; raises a Refusal that names every fault by its pointer."""
    named = document if isinstance(document, dict) else {}
    for field in model.later:
        if named.get(field) is not None:
            raise not_available(field, pointer=pointer(field))
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid(faults_of(error, document)) from None


def query_document(arguments: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Read a query string's parameters as a document, `name[key]=value` as a nested one.

    Raises a Refusal if a parameter is given twice.
    """
    document: dict[str, Any] = {}
    if len(arguments) > MOST_NAMES:
        detail = f"{len(arguments):,} parameters; at most {MOST_NAMES}"
        raise invalid([Fault(pointer="", detail=detail)])
    for name, values in arguments.items():
        if len(name) > LONGEST_NAME:
            raise invalid([Fault(pointer="", detail=f"there is no parameter {quoted(name)}")])
        if len(values) != 1:
            raise invalid([Fault(pointer=pointer(name), detail="given more than once")])
        nested = re.fullmatch(r"(\w+)\[(.*)\]", name, re.DOTALL)
        if nested and isinstance(document.setdefault(nested[1], {}), dict):
            document[nested[1]][nested[2]] = values[0]
        else:
            document[name] = values[0]
    return document
