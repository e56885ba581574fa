"""The manifest of a weights directory: what must be there, byte for byte, under which label."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import WeightsDamaged, WeightsMissing

NAME = "manifest.json"
FORMAT = 1
MAX_BYTES = 1024 * 1024  # ours has 18 files and 4 KB


class Role(StrEnum):
    """What a file is for; the values are the folders that diffusers expects."""

    INDEX = "index"
    SCHEDULER = "scheduler"
    TOKENIZER = "tokenizer"
    TOKENIZER_2 = "tokenizer_2"
    TEXT_ENCODER = "text_encoder"
    TEXT_ENCODER_2 = "text_encoder_2"
    TRANSFORMER = "transformer"
    VAE = "vae"


def _plain_relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or path.startswith("/") or ".." in parts:
        raise ValueError("must be a plain path inside the directory")
    if "\\" in path or "\0" in path:
        raise ValueError("must not contain a backslash or a zero")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """One file of the weights; `crc32c` is base64 as Google Cloud Storage tells it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: Annotated[str, Field(max_length=512), AfterValidator(_plain_relative)]
    role: Role
    bytes: Annotated[int, Field(ge=0, strict=True)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    crc32c: Annotated[str, Field(max_length=16)] | None = None
    quantization: Annotated[str, Field(max_length=64)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expects:
    """The shape of the transformer that the label promises."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    in_channels: int
    blocks: tuple[int, int]
    inner_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The files of one set of weights; `label` and `sha256` name the set everywhere."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: int = FORMAT
    label: Annotated[str, Field(min_length=1, max_length=128)]
    files: tuple[WeightsFile, ...]
    expects: Expects

    @property
    def sha256(self) -> str:
        """Digest of all the files' names, sizes and digests, in 64 hexadecimal digits."""
        listed = sorted((file.path, file.bytes, file.sha256) for file in self.files)
        return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()

    def of(self, role: Role) -> tuple[WeightsFile, ...]:
        """The files of one role, in the manifest's order."""
        return tuple(file for file in self.files if file.role is role)


def read_manifest(directory: Path) -> Manifest:
    """Read a directory's manifest; no other file is opened.

    Raises WeightsMissing without a manifest, WeightsDamaged if it cannot be understood.
    """
    path = directory / NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise WeightsDamaged(f"{path}: larger than {MAX_BYTES} bytes; prepare it again")
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        remedy = "docs/weights.md says what belongs there; ILLO_WEIGHTS=tiny needs nothing"
        raise WeightsMissing(f"{path}: not there; {remedy}") from None
    except OSError as error:
        raise WeightsDamaged(f"{path}: cannot be read: {error.strerror}") from None
    return _parse(path, text)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all files: it says that the others are complete."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")


def describe_file(
    directory: Path, path: str, role: Role, *, quantization: str | None = None
) -> WeightsFile:
    """Measure and digest one file for a new manifest."""
    file = directory / path
    return WeightsFile(
        path=path,
        role=role,
        bytes=file.stat().st_size,
        sha256=digest_of(file),
        quantization=quantization,
    )


def digest_of(file: Path) -> str:
    """Read the whole file and give its SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _parse(path: Path, text: bytes) -> Manifest:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise WeightsDamaged(f"{path}: not JSON; prepare it again") from None
    format_ = found.get("format") if isinstance(found, dict) else None
    if format_ != FORMAT:
        raise WeightsDamaged(
            f"{path}: format {format_!r:.80} is unknown, this illo reads {FORMAT}; "
            "use the illo that wrote it, or prepare it again"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_python(found)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]
        )
        raise WeightsDamaged(f"{path}: {wrong}; prepare it again") from None
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        twice = next(each for each in paths if paths.count(each) > 1)
        raise WeightsDamaged(f"{path}: {twice!r} is listed twice; prepare it again")
    return manifest
