"""Decide what a push has to do, from a manifest and what lies in the folder of the bucket."""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.gcp.weights import CloudFile
from shared.manifest import NAME, Manifest, WeightsFile
from worker.pipeline.weights.files import unlisted

PARTS = ".parts/"  # what is under way; no loader looks there


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A file that has to be sent, over the generation that is there or over none (0)."""

    file: WeightsFile
    over: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send and what is there already; `in_the_way` are other contents, and strangers.

    `announced` is the manifest that lies there, `same_manifest` whether it is the one to be put.
    """

    sendings: tuple[Sending, ...]
    there: tuple[WeightsFile, ...]
    in_the_way: tuple[CloudFile, ...]
    strangers: tuple[CloudFile, ...]
    announced: CloudFile | None
    same_manifest: bool


def plan_push(manifest: Manifest, described: WeightsFile, objects: Iterable[CloudFile]) -> Plan:
    """Compare by size and CRC32C; `described` is the manifest's own file, its path NAME."""
    found = {each.path: each for each in objects if not each.path.startswith(PARTS)}
    sendings, there, in_the_way = [], [], []
    for file in manifest.files:
        present = found.get(file.path)
        if present is not None and is_same(present, file):
            there.append(file)
            continue
        sendings.append(Sending(file=file, over=present.generation if present else 0))
        if present is not None:
            in_the_way.append(present)
    strangers = tuple(found[name] for name in unlisted(found, manifest))
    announced = found.get(NAME)
    same = announced is not None and is_same(announced, described)
    if announced is not None and not same:
        in_the_way.append(announced)
    return Plan(
        sendings=tuple(sendings),
        there=tuple(there),
        in_the_way=(*in_the_way, *strangers),
        strangers=strangers,
        announced=announced,
        same_manifest=same,
    )


def is_same(found: CloudFile, file: WeightsFile) -> bool:
    """Say whether an object has a file's size and checksum."""
    return (found.bytes, found.crc32c) == (file.bytes, file.crc32c)
