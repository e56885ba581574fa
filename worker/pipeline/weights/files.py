"""Compare a weights directory with its manifest."""

from collections.abc import Callable
from pathlib import Path

from shared.errors import WeightsDamaged, WeightsMissing
from shared.manifest import Manifest, Role, WeightsFile, digest_of

_REMEDY = "download the weights again, or prepare the manifest anew if the change was meant"


def check_files(
    directory: Path,
    manifest: Manifest,
    *,
    digests: bool = False,
    on_fraction: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Refuse a directory whose files are not those of its manifest.

    Looks at names and sizes; with `digests` also reads every byte (about a second per GB) and
    tells the fraction done. Raises WeightsMissing or WeightsDamaged, naming the file.
    """
    for file in manifest.files:
        _check_file(directory, file)
    _refuse_unlisted(directory, manifest)
    if digests:
        _check_digests(directory, manifest, on_fraction)


def _check_file(directory: Path, file: WeightsFile) -> None:
    path = directory / file.path
    if not path.resolve().is_relative_to(directory.resolve()):
        raise WeightsDamaged(f"{path}: leads out of the directory; copy the file itself there")
    if not path.is_file():
        raise WeightsMissing(f"{path}: not there, though the manifest lists it; {_REMEDY}")
    found = path.stat().st_size
    if found != file.bytes:
        raise WeightsDamaged(f"{path}: has {found} bytes, expected {file.bytes}; {_REMEDY}")


def _refuse_unlisted(directory: Path, manifest: Manifest) -> None:
    # loaders pick up what they find: an adapter, an index of shards, another tokenizer
    listed = {file.path for file in manifest.files}
    for role in Role:
        for path in sorted((directory / role).rglob("*")):
            name = path.relative_to(directory).as_posix()
            if name not in listed and not path.is_dir():
                raise WeightsDamaged(
                    f"{path}: not in the manifest, and a loader might read it; move it away"
                )


def _check_digests(
    directory: Path, manifest: Manifest, on_fraction: Callable[[float], None]
) -> None:
    total = sum(file.bytes for file in manifest.files) or 1
    done = 0
    for file in manifest.files:
        path = directory / file.path
        if digest_of(path) != file.sha256:
            raise WeightsDamaged(f"{path}: its sha256 is not the manifest's; {_REMEDY}")
        done += file.bytes
        on_fraction(done / total)
