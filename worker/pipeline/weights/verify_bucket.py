"""Hold weights in a bucket against their manifest: by what the bucket says, or every byte."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.cloud_folders import CloudFolder
from shared.gcp.weights import CloudFile, CloudWeights
from shared.manifest import Manifest, Role, WeightsFile, write_manifest
from worker.pipeline.weights.files import LARGE, unlisted
from worker.pipeline.weights.gguf_cursor import MAX_HEADER_BYTES
from worker.pipeline.weights.verify import (
    AGAIN,
    OnFile,
    Verification,
    make_sparse,
    verified,
    wrong_headers,
)
from worker.pipeline.weights.words_check import MOST_BYTES

HEAD_BYTES = MAX_HEADER_BYTES + 64  # a safetensors header has its length before it


def verify_bucket(
    folder: CloudFolder,
    *,
    emulator: str | None = None,
    every_byte: bool = False,
    on_file: OnFile = lambda name, fraction: None,
) -> Verification:
    """Compare names, sizes and checksums, and read the headers; all bytes only if asked to.

    Raises WeightsMissing or WeightsDamaged if there is no manifest to hold it against, and
    WeightsUnreachable if the bucket does not answer.
    """
    weights = CloudWeights(folder, emulator=emulator)
    manifest = weights.manifest()
    there = {file.path: file for file in weights.files()}
    problems = [*_wrong_objects(folder, manifest, there)]
    problems += [
        f"{folder}/{name}: not in the manifest, and a loader might read it; delete it"
        for name in unlisted(there, manifest)
    ]
    if not problems:
        problems += _wrong_heads(folder, weights, manifest, there)
    notes = [
        f"{folder}/{file.path}: the manifest has no crc32c to compare; --every-byte reads it"
        for file in manifest.files
        if file.crc32c is None and not every_byte
    ]
    if every_byte and not problems:
        from worker.pipeline.weights.every_byte import wrong_bytes

        problems += wrong_bytes(folder, manifest, emulator=emulator, on_file=on_file)
    return verified(str(folder), manifest, problems, every_byte=every_byte, notes=notes)


def _wrong_objects(
    folder: CloudFolder, manifest: Manifest, there: Mapping[str, CloudFile]
) -> Iterator[str]:
    for file in manifest.files:
        name, found = f"{folder}/{file.path}", there.get(file.path)
        if found is None:
            yield f"{name}: not there, though the manifest lists it; {AGAIN}"
        elif found.bytes != file.bytes:
            yield f"{name}: has {found.bytes} bytes, expected {file.bytes}; {AGAIN}"
        elif file.crc32c is not None and found.crc32c != file.crc32c:
            yield (
                f"{name}: is stored with the crc32c {found.crc32c}, the manifest says "
                f"{file.crc32c}; {AGAIN}"
            )


def _wrong_heads(
    folder: CloudFolder,
    weights: CloudWeights,
    manifest: Manifest,
    there: Mapping[str, CloudFile],
) -> list[str]:
    """Judge a directory of which headers and small files are there: by the rules for any other."""
    with tempfile.TemporaryDirectory(prefix="illo-verify-") as made:
        directory = Path(made)
        for file in manifest.files:
            make_sparse(directory, file, weights.head(there[file.path], _wanted(file)))
        write_manifest(directory, manifest)
        return [said.replace(made, str(folder)) for said in wrong_headers(directory)]


def _wanted(file: WeightsFile) -> int:
    if file.path.endswith(LARGE):
        return HEAD_BYTES
    return 0 if file.role is Role.INDEX else MOST_BYTES
