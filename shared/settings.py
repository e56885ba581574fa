"""Every setting of every process, read once from a mapping of environment variables.

docs/settings.md shows this table to people; a test compares the two.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from shared.cloud_folders import CloudFolder, read_cloud_folder
from shared.errors import BadSettings, WeightsMissing
from shared.jobs import Terms
from shared.quotas import Quota

PREFIX = "ILLO_"
CLIENT_ONLY = frozenset({"ILLO_URL", "ILLO_KEY"})  # read by the command line, no setting
WORLDS_OWN = frozenset(
    {
        "PORT",
        "GOOGLE_CLOUD_PROJECT",
        "K_SERVICE",
        "FIRESTORE_EMULATOR_HOST",
        "PUBSUB_EMULATOR_HOST",
        "STORAGE_EMULATOR_HOST",
    }
)
SMALL_ARTIST = Path(__file__).with_name("small_artist")  # what `tiny` means
GOOGLES_CERTIFICATES = "https://www.googleapis.com/oauth2/v1/certs"


class Backend(StrEnum):
    """Which services the processes stand on."""

    EMBEDDED = "embedded"
    GCP = "gcp"


class Residency(StrEnum):
    """Where the models lie while they are not computing; `auto` is a wish only."""

    AUTO = "auto"
    RESIDENT = "resident"
    STREAM_T5 = "stream-t5"
    OFFLOAD = "offload"


class Signatures(StrEnum):
    """Who verifies the signatures of the pushes' identity tokens."""

    WORKER = "worker"
    IAM = "iam"


class Settings(BaseModel):
    """How this process is to run; the defaults run on a laptop."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    backend: Backend = Field(
        Backend.EMBEDDED,
        description="The services to stand on: embedded, on one machine, or gcp.",
    )
    data: Path = Field(
        Path("data"), description="The folder that holds the database, the images and the queue."
    )
    weights: str = Field(
        "tiny",
        min_length=1,
        description="`tiny`, the small artist that illo brings; a folder; or gs://bucket/prefix.",
    )
    residency: Residency = Field(
        Residency.AUTO, description="Where the models lie: auto, resident, stream-t5 or offload."
    )
    fetch_connections: int = Field(
        16, ge=1, le=128, description="Ranges of the weights that are asked of a bucket at once."
    )
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads of the pipeline; 0 leaves one core to the others."
    )
    together: int = Field(
        1, ge=1, le=8, description="The most images that the device draws at once; see below."
    )
    host: str = Field("127.0.0.1", min_length=1, description="The address the server listens on.")
    port: int = Field(
        8080, ge=0, le=65535, alias="PORT", description="The port; 0 takes a free one."
    )
    http_threads: int = Field(
        16, ge=2, le=256, description="Requests answered at once; half of them may be long polls."
    )
    workers: int = Field(
        1, ge=1, le=64, description="The most workers there can be; bounds the wake-ups of a sweep."
    )
    lease_seconds: float = Field(75, gt=0, le=3600, description="How long a claim lasts.")
    heartbeat_seconds: float = Field(
        15,
        gt=0,
        le=600,
        validate_default=True,
        description="How often a worker renews its claim; at most half a lease.",
    )
    sweep_seconds: float = Field(
        5, gt=0, le=3600, description="How often lost wake-ups and dead workers are looked for."
    )
    step_timeout_seconds: float = Field(
        120, gt=0, description="A denoising step that lasts longer counts as hung."
    )
    checkpoint_seconds: float = Field(
        10,
        ge=0,
        le=3600,
        description="How often a drawing is saved for another worker to go on; 0: not by time.",
    )
    checkpoint_steps: int = Field(
        0, ge=0, le=1000, description="Save it every so many steps, too; both 0: never."
    )
    load_timeout_seconds: float = Field(
        600, gt=0, description="Loading that shows no advance for longer counts as hung."
    )
    max_runtime_seconds: float = Field(1800, gt=0, description="The longest one attempt may take.")
    max_queued_hours: float = Field(24, gt=0, description="The longest a job may wait.")
    max_pixels: int = Field(
        1_600_000, ge=4096, le=4_194_304, description="The largest area of an image."
    )
    retention_days: float = Field(
        30, ge=2, description="How long ended jobs, their images and unused uploads are kept."
    )
    gpu_seconds_per_day: float = Field(
        28_800, gt=0, description="Drawing seconds a day; then claiming pauses to midnight UTC."
    )
    price_per_gpu_second: float | None = Field(
        None, ge=0, description="US dollars; set, every job says what it cost."
    )
    ack_deadline_seconds: float = Field(
        600, gt=0, le=600, description="How long the queue waits for an answer to a push."
    )
    keys: str | None = Field(
        None,
        min_length=1,
        description="The API keys: a JSON file of their hashes, or that JSON itself.",
    )
    quota_queued_jobs: int | None = Field(
        None, ge=1, description="The most jobs a tenant may have waiting."
    )
    quota_jobs_per_day: int | None = Field(
        None, ge=1, description="The most jobs a tenant may make a day."
    )
    quota_gpu_seconds_per_day: float | None = Field(
        None, gt=0, description="Drawing seconds a day after which a tenant may make no more jobs."
    )
    project: str | None = Field(
        None, min_length=1, alias="GOOGLE_CLOUD_PROJECT", description="gcp: the project's id."
    )
    database: str = Field("(default)", min_length=1, description="gcp: the Firestore database.")
    bucket: str | None = Field(
        None, min_length=3, description="gcp: the bucket of uploads and images."
    )
    topic: str | None = Field(
        None, min_length=3, description="gcp: the Pub/Sub topic that wake-ups are published to."
    )
    push_audience: str | None = Field(
        None, min_length=1, description="gcp: the audience of the pushes' identity tokens."
    )
    push_email: str | None = Field(
        None, min_length=3, description="gcp: the service account that pushes."
    )
    push_signatures: Signatures = Field(
        Signatures.WORKER,
        description="gcp: who verifies the pushes' signatures: worker or iam; see below.",
    )
    sweep_audience: str | None = Field(
        None, min_length=1, description="gcp: the audience of the scheduler's identity tokens."
    )
    sweep_email: str | None = Field(
        None, min_length=3, description="gcp: the service account that calls for the sweep."
    )
    certificates: str = Field(
        GOOGLES_CERTIFICATES,
        description="gcp: where the keys of identity tokens are; another URL only with emulators.",
    )
    cloud_run_service: str | None = Field(
        None, min_length=1, alias="K_SERVICE", description="gcp: set by Cloud Run, by nobody else."
    )
    firestore_emulator: str | None = Field(
        None, alias="FIRESTORE_EMULATOR_HOST", description="host:port of Google's emulator."
    )
    pubsub_emulator: str | None = Field(
        None, alias="PUBSUB_EMULATOR_HOST", description="host:port of Google's emulator."
    )
    storage_emulator: str | None = Field(
        None, alias="STORAGE_EMULATOR_HOST", description="The URL of a Cloud Storage emulator."
    )
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error."
    )

    @property
    def weights_directory(self) -> Path:
        """The folder of weights that lie on this machine; the tiny ones come with illo.

        Raises WeightsMissing where a bucket has them.
        """
        if self.weights_bucket is not None:
            raise WeightsMissing(
                f"ILLO_WEIGHTS: {self.weights} is no folder of this machine; copy them here, and "
                "name the folder"
            )
        return SMALL_ARTIST if self.weights == "tiny" else Path(self.weights)

    @property
    def weights_bucket(self) -> CloudFolder | None:
        """Where the weights lie if a bucket has them; None if they are on this machine."""
        return read_cloud_folder(self.weights)

    @property
    def pipeline_threads(self) -> int:
        """How many CPU threads to draw with; sharing the last core makes steps ten times slower."""
        return self.threads or max(1, (os.cpu_count() or 1) - 1)

    @property
    def quota(self) -> Quota:
        """What a tenant may use."""
        return Quota(
            queued_jobs=self.quota_queued_jobs,
            jobs_per_day=self.quota_jobs_per_day,
            gpu_seconds_per_day=self.quota_gpu_seconds_per_day,
        )

    @property
    def terms(self) -> Terms:
        """The settings that a job's rules need."""
        return Terms(
            lease=timedelta(seconds=self.lease_seconds),
            max_runtime=timedelta(seconds=self.max_runtime_seconds),
            max_queued=timedelta(hours=self.max_queued_hours),
        )

    @property
    def retention(self) -> timedelta:
        """How long ended jobs are kept."""
        return timedelta(days=self.retention_days)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; raises BadSettings with every mistake, unknown names included."""
        given = {
            name: value
            for name, value in environment.items()
            if (name.startswith(PREFIX) and name not in CLIENT_ONLY) or name in WORLDS_OWN
        }
        fields = {_field(name): value for name, value in given.items()}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise BadSettings("\n".join(_complaint(fault) for fault in error.errors())) from None

    @field_validator("weights")
    @classmethod
    def _names_one_place(cls, weights: str) -> str:
        try:
            folder = read_cloud_folder(weights)
        except ValueError as wrong:
            raise ValueError(f"must be `tiny`, a folder or gs://bucket/prefix: {wrong}") from None
        # two ways to write one place would look like two sets of weights
        return weights if folder is None else str(folder)

    @field_validator("heartbeat_seconds")
    @classmethod
    def _fits_into_a_lease_twice(cls, heartbeat: float, read: ValidationInfo) -> float:
        lease: float | None = read.data.get("lease_seconds")
        if lease is not None and heartbeat * 2 > lease:
            raise ValueError(
                f"must be at most half of ILLO_LEASE_SECONDS ({lease:g}), or a claim runs out "
                "between two heartbeats"
            )
        return heartbeat


def variable(field: str) -> str:
    """Name the environment variable of a setting."""
    declared = Settings.model_fields.get(field)
    alias = field if field in WORLDS_OWN else declared.alias if declared else None
    return alias or PREFIX + field.upper()


def process_environment() -> Mapping[str, str]:
    """The only place where the environment of this process is read."""
    return dict(os.environ)


def environment_of(settings: Settings) -> dict[str, str]:
    """Write settings as environment variables, for a child process."""
    written = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            written[variable(name)] = str(value)
    return written


def child_environment(settings: Settings) -> dict[str, str]:
    """Make a child's environment: this process's, these settings, no model hub, no chatter."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return inherited | environment_of(settings) | quiet


def _field(name: str) -> str:
    return name if name in WORLDS_OWN else name.removeprefix(PREFIX).lower()


def _complaint(fault: Any) -> str:
    name = variable(str(fault["loc"][0]))
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; docs/settings.md lists them"
    return f"{name}: {fault['msg'].removeprefix('Value error, ')}, not {fault['input']!r}"
