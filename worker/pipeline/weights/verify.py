"""Hold weights against their manifest, file by file, and tell everything that is wrong at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import WeightsError
from shared.manifest import Digests, Manifest, WeightsFile, digests_of, read_manifest
from worker.pipeline.weights.files import check_file, names_in, unlisted
from worker.pipeline.weights.inspect import inspect_weights

AGAIN = "upload or download it again, or prepare the weights anew if the change was meant"

OnFile = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found; `problems` is empty when every file is what the manifest says."""

    path: str
    label: str
    sha256: str
    files: int
    bytes: int
    every_byte: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Advance:
    """Turns bytes that were read into a fraction of all, and says of which file they are."""

    def __init__(self, manifest: Manifest, on_file: OnFile) -> None:
        self._total = sum(file.bytes for file in manifest.files) or 1
        self._done, self._on_file, self._name = 0, on_file, ""

    def begin(self, name: str) -> None:
        """Go on to a file."""
        self._name = name
        self.add(0)

    def add(self, count: int) -> None:
        """Count bytes of it."""
        self._done += count
        self._on_file(self._name, min(1.0, self._done / self._total))


def verify_folder(
    directory: Path, *, on_file: OnFile = lambda name, fraction: None
) -> Verification:
    """Read every byte of a weights directory, and its headers.

    Raises WeightsMissing or WeightsDamaged if there is no manifest to hold it against.
    """
    manifest = read_manifest(directory)
    advance = Advance(manifest, on_file)
    problems = [*_wrong_files(directory, manifest, advance)]
    problems += [
        f"{directory / name}: not in the manifest, and a loader might read it; move it away"
        for name in unlisted(names_in(directory), manifest)
    ]
    on_file("headers", 1.0)
    return verified(str(directory), manifest, problems or wrong_headers(directory), every_byte=True)


def verified(
    path: str,
    manifest: Manifest,
    problems: Sequence[str],
    *,
    every_byte: bool,
    notes: Sequence[str] = (),
) -> Verification:
    """Sum up what was found."""
    return Verification(
        path=path,
        label=manifest.label,
        sha256=manifest.sha256,
        files=len(manifest.files),
        bytes=sum(file.bytes for file in manifest.files),
        every_byte=every_byte,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def wrong_headers(directory: Path) -> list[str]:
    """Say what the headers and configs of a directory with all its files have against it."""
    problem = inspect_weights(directory).problem
    return [] if problem is None else [problem]


def wrong_digests(name: str, file: WeightsFile, found: Digests) -> list[str]:
    """Compare what was read with what the manifest says."""
    if found.sha256 != file.sha256:
        return [f"{name}: its sha256 is not the manifest's; {AGAIN}"]
    if file.crc32c not in (None, found.crc32c):
        return [
            f"{name}: its crc32c is {found.crc32c}, the manifest says {file.crc32c}, though the "
            "sha256 is right; prepare the weights anew"
        ]
    return []


def make_sparse(directory: Path, file: WeightsFile, head: bytes) -> None:
    """Make a file of the right size of which only the beginning is there."""
    path = directory / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as made:
        made.write(head)
        made.truncate(file.bytes)


def _wrong_files(directory: Path, manifest: Manifest, advance: Advance) -> Iterator[str]:
    for file in manifest.files:
        advance.begin(file.path)
        try:
            check_file(directory, file)
            digests = digests_of(directory / file.path, on_bytes=advance.add)
        except WeightsError as error:
            advance.add(file.bytes)
            yield str(error)
        except OSError as error:
            yield f"{directory / file.path}: cannot be read: {error.strerror}; {AGAIN}"
        else:
            yield from wrong_digests(str(directory / file.path), file, digests)
