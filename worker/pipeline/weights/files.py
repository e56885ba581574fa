"""Compare a weights directory with its manifest."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shared.errors import WeightsDamaged, WeightsMissing
from shared.manifest import Manifest, Role, WeightsFile, digests_of

LARGE = (".gguf", ".safetensors")
_REMEDY = "download the weights again, or prepare the manifest anew if the change was meant"


def large_files(manifest: Manifest) -> list[WeightsFile]:
    """List the files that hold tensors."""
    return [file for file in manifest.files if file.path.endswith(LARGE)]


def small_files(manifest: Manifest) -> list[WeightsFile]:
    """List all others: configs, and the tokenizers' words."""
    return [file for file in manifest.files if not file.path.endswith(LARGE)]


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
        check_file(directory, file)
    for name in unlisted(names_in(directory), manifest):
        raise WeightsDamaged(
            f"{directory / name}: not in the manifest, and a loader might read it; move it away"
        )
    if digests:
        _check_digests(directory, manifest, on_fraction)


def check_file(directory: Path, file: WeightsFile) -> None:
    """Refuse a file that is not there, leads elsewhere or is of another size."""
    path = directory / file.path
    if not path.resolve().is_relative_to(directory.resolve()):
        raise WeightsDamaged(f"{path}: leads out of the directory; copy the file itself there")
    if not path.is_file():
        raise WeightsMissing(f"{path}: not there, though the manifest lists it; {_REMEDY}")
    found = path.stat().st_size
    if found != file.bytes:
        raise WeightsDamaged(f"{path}: has {found} bytes, expected {file.bytes}; {_REMEDY}")


def check_digest(directory: Path, file: WeightsFile) -> None:
    """Read all of a file, and refuse it if it is not the manifest's."""
    path = directory / file.path
    if digests_of(path).sha256 != file.sha256:
        raise WeightsDamaged(f"{path}: its sha256 is not the manifest's; {_REMEDY}")


def names_in(directory: Path) -> Iterator[str]:
    """Name every file in the folders of the parts."""
    for role in Role:
        for path in sorted((directory / role).rglob("*")):
            if not path.is_dir():
                yield path.relative_to(directory).as_posix()


def unlisted(names: Iterable[str], manifest: Manifest) -> Iterator[str]:
    """Choose the names in the folders of the parts that no manifest lists.

    Loaders pick up what they find: an adapter, an index of shards, another tokenizer.
    """
    listed = {file.path for file in manifest.files}
    folders = {role.value for role in Role}
    return (name for name in names if name not in listed and name.partition("/")[0] in folders)


def _check_digests(
    directory: Path, manifest: Manifest, on_fraction: Callable[[float], None]
) -> None:
    total = sum(file.bytes for file in manifest.files) or 1
    done = 0
    for file in manifest.files:
        check_digest(directory, file)
        done += file.bytes
        on_fraction(done / total)
