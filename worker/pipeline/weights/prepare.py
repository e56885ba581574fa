"""Make a weights directory from downloaded files, judged by their headers before a byte is copied.

The directory appears complete or not at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import NAME, Digests, Manifest, Role, WeightsFile, write_manifest
from worker.pipeline.weights.downloads import Part, find_parts
from worker.pipeline.weights.inspect import inspect_weights
from worker.pipeline.weights.judge import Judged, judge
from worker.pipeline.weights.placing import (
    Way,
    copy_digested,
    join_digested,
    read_shared,
    require_room,
    share,
)
from worker.pipeline.weights.whole_folder import whole_folder

MAX_LABEL = 128  # characters

OnFile = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was made; `shared` files use no room of their own beside the downloads."""

    directory: Path
    manifest: Manifest
    origin: str | None
    shared: tuple[str, ...]
    copied_bytes: int


def prepare_weights(
    transformer: Path,
    encoder: Sequence[Path],
    folder: Path,
    directory: Path,
    *,
    label: str | None = None,
    way: Way = Way.AUTO,
    on_file: OnFile = lambda name, fraction: None,
) -> Prepared:
    """Make the directory from a transformer, a T5 and a diffusers folder that has the rest.

    `on_file` hears which file is read, and the fraction of all bytes done. Raises WrongWeights if
    the directory holds something or the files are of another model, WeightsMissing, WeightsDamaged
    or NoRoom. Whatever was raised, nothing is left behind.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise WrongWeights(f"{directory}: holds something already; choose a new directory")
    judged = judge(find_parts(transformer, encoder, folder), folder, label)
    with whole_folder(directory) as made:
        prepared = _fill(made, judged, way, on_file)
        # what would be refused later is refused now
        if problem := inspect_weights(made).problem:
            raise WeightsDamaged(problem.replace(str(made), str(directory)))
    return replace(prepared, directory=directory)


def _fill(directory: Path, judged: Judged, way: Way, on_file: OnFile) -> Prepared:
    for role in Role:
        if role is not Role.INDEX:
            (directory / role).mkdir()
    shared = {
        part.path
        for part in judged.parts
        if len(part.sources) == 1 and share(part.sources[0], directory / part.path, way)
    }
    copied = sum(size for path, size in judged.bytes.items() if path not in shared)
    require_room(directory, copied)
    files, done, total = [], 0, sum(judged.bytes.values()) or 1

    def read(path: str, count: int) -> None:
        nonlocal done
        done += count
        on_file(path, done / total)

    for part in judged.parts:
        on_file(part.path, done / total)
        digests = _place(part, directory, judged, part.path in shared, partial(read, part.path))
        files.append(_described(part, directory, judged, digests))
    manifest = Manifest(label=judged.label, files=tuple(files), expects=judged.expects)
    write_manifest(directory, manifest)
    (directory / NAME).chmod(0o644)
    on_file(NAME, 1.0)
    return Prepared(
        directory=directory,
        manifest=manifest,
        origin=judged.origin,
        shared=tuple(sorted(shared)),
        copied_bytes=copied,
    )


def _place(
    part: Part, directory: Path, judged: Judged, shared: bool, on_bytes: Callable[[int], None]
) -> Digests:
    target = directory / part.path
    if shared:
        return read_shared(target, on_bytes)
    if len(part.sources) > 1:
        return join_digested(judged.shards[part.path], target, on_bytes)
    return copy_digested(part.sources[0], target, on_bytes)


def _described(part: Part, directory: Path, judged: Judged, digests: Digests) -> WeightsFile:
    size = (directory / part.path).stat().st_size
    if size != judged.bytes[part.path]:
        raise WeightsMissing(
            f"{part.sources[0]}: had {judged.bytes[part.path]} bytes and now {size}: is it still "
            "being downloaded? Prepare again when it is there"
        )
    return WeightsFile(
        path=part.path,
        role=part.role,
        bytes=size,
        sha256=digests.sha256,
        crc32c=digests.crc32c,
        quantization=judged.quantizations.get(part.path),
    )
