"""The manifest of a weights directory: what must be there, byte for byte, under which label."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated

import google_crc32c
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import WeightsDamaged, WeightsMissing
from shared.scenes import USUAL_PIXELS, Weights

NAME = "manifest.json"
FORMAT = 1
LONGEST_PART = 255  # of a path, on the file systems there are
MAX_BYTES = 1024 * 1024  # ours has 18 files and 4 KB
PIECE_BYTES = 2**20  # read and digested at once
TEXT_TOKENS = 512  # what T5 reads of a prompt, however short; Kontext was trained with them
LEAST_TEXT_TOKENS = 8
LEAST_USUAL_PIXELS = 64 * 64  # the smallest picture that there is
MAKE = "make weights with `illo weights prepare`"  # where there are none
PUT_THERE = f"{MAKE} and put them there with `illo weights push`"


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
    if any(len(part.encode(errors="replace")) > LONGEST_PART for part in parts):
        raise ValueError(f"must have no part longer than {LONGEST_PART} bytes")
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
    # fewer than the full size has only where the weights were trained with fewer: padding counts
    text_tokens: Annotated[int, Field(ge=LEAST_TEXT_TOKENS, le=TEXT_TOKENS, strict=True)] = (
        TEXT_TOKENS
    )
    # the area of a picture whose sides nobody chose; it decides no picture whose sides are known
    usual_pixels: Annotated[int, Field(ge=LEAST_USUAL_PIXELS, le=USUAL_PIXELS, strict=True)] = (
        USUAL_PIXELS
    )

    @property
    def weights(self) -> Weights:
        """The set's name, as a scene has it."""
        return Weights(label=self.label, sha256=self.sha256)

    @property
    def sha256(self) -> str:
        """Digest of all the files' names, sizes and digests, in 64 hexadecimal digits.

        Another number of text tokens than usual counts, too: it draws other pictures.
        """
        files = sorted((file.path, file.bytes, file.sha256) for file in self.files)
        listed: list[object] = [*files]
        if self.text_tokens != TEXT_TOKENS:
            listed.append(self.text_tokens)
        return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()

    def of(self, role: Role) -> tuple[WeightsFile, ...]:
        """The files of one role, in the manifest's order."""
        return tuple(file for file in self.files if file.role is role)


class Digests:
    """SHA-256 and CRC32C of bytes that come one piece after the other."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._crc32c = 0

    def add(self, piece: bytes) -> None:
        """Go on with the bytes that follow."""
        self._sha256.update(piece)
        self._crc32c = google_crc32c.extend(self._crc32c, piece)

    @property
    def sha256(self) -> str:
        """The SHA-256 so far, in 64 hexadecimal digits."""
        return self._sha256.hexdigest()

    @property
    def crc32c(self) -> str:
        """The CRC32C so far, in base64 as Cloud Storage tells it."""
        return base64.b64encode(self._crc32c.to_bytes(4, "big")).decode()


def read_manifest(directory: Path) -> Manifest:
    """Read a directory's manifest; no other file is opened.

    Raises WeightsMissing without a manifest, WeightsDamaged if it cannot be understood.
    """
    path = directory / NAME
    try:
        if path.exists() and not path.is_file():
            raise WeightsDamaged(f"{path}: no regular file; prepare the weights again")
        if path.stat().st_size > MAX_BYTES:
            raise WeightsDamaged(f"{path}: larger than {MAX_BYTES} bytes; prepare it again")
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsMissing(
            f"{path}: not there; {MAKE} from downloads, docs/weights.md says how; "
            "ILLO_WEIGHTS=tiny needs nothing"
        ) from None
    except OSError as error:
        raise WeightsDamaged(f"{path}: cannot be read: {error.strerror}") from None
    return parse_manifest(text, str(path))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Understand a manifest that was read from somewhere; raises WeightsDamaged, naming it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise WeightsDamaged(f"{where}: not JSON; prepare it again") from None
    format_ = found.get("format") if isinstance(found, dict) else None
    if format_ != FORMAT:
        raise WeightsDamaged(
            f"{where}: format {format_!r:.80} is unknown, this illo reads {FORMAT}; "
            "use the illo that wrote it, or prepare it again"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_python(found)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]
        )
        raise WeightsDamaged(f"{where}: {wrong}; prepare it again") from None
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        twice = next(each for each in paths if paths.count(each) > 1)
        raise WeightsDamaged(f"{where}: {twice!r} is listed twice; prepare it again")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, last of all files: it says that the others are complete."""
    written = asdict(manifest)
    # an illo that did not know these reads weights that do without them, too
    if manifest.text_tokens == TEXT_TOKENS:
        del written["text_tokens"]
    if manifest.usual_pixels == USUAL_PIXELS:
        del written["usual_pixels"]
    text = json.dumps(written, indent=2, ensure_ascii=False)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")


def describe_file(
    directory: Path, path: str, role: Role, *, quantization: str | None = None
) -> WeightsFile:
    """Measure and digest one file for a new manifest; it is read once."""
    file = directory / path
    digests = digests_of(file)
    return WeightsFile(
        path=path,
        role=role,
        bytes=file.stat().st_size,
        sha256=digests.sha256,
        crc32c=digests.crc32c,
        quantization=quantization,
    )


def digests_of(file: Path, *, on_bytes: Callable[[int], None] = lambda count: None) -> Digests:
    """Read the whole file once and digest it; tells the size of each piece that was read."""
    digests = Digests()
    with file.open("rb", buffering=0) as opened:
        while piece := opened.read(PIECE_BYTES):
            digests.add(piece)
            on_bytes(len(piece))
    return digests
