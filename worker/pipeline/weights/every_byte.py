"""Read every byte of the weights in a bucket, and digest it; nothing is kept."""

import numpy as np

from shared.cloud_folders import CloudFolder
from shared.errors import WeightsError, WeightsUnreachable
from shared.manifest import PIECE_BYTES, Digests, Manifest
from worker.pipeline.weights.cloud_objects import open_object
from worker.pipeline.weights.fetch import fetch
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.sources import Source
from worker.pipeline.weights.verify import Advance, OnFile, wrong_digests

WINDOW_BYTES = 128 * 2**20  # in memory at once; sixteen connections bring a range each


def wrong_bytes(
    folder: CloudFolder, manifest: Manifest, *, emulator: str | None, on_file: OnFile
) -> list[str]:
    """Say which objects are not byte for byte what the manifest says.

    Raises WeightsUnreachable if the bucket stops answering.
    """
    advance = Advance(manifest, on_file)
    problems: list[str] = []
    for file in manifest.files:
        advance.begin(file.path)
        try:
            source = open_object(folder.bucket, folder.name_of(file.path), emulator=emulator)
            digests = _digested(source, advance)
        except WeightsUnreachable:
            raise
        except WeightsError as error:
            problems.append(str(error))
        else:
            problems += wrong_digests(source.name, file, digests)
    return problems


def _digested(source: Source, advance: Advance) -> Digests:
    # a window after the other, since SHA-256 goes by the order of the bytes
    digests = Digests()
    window = np.empty(min(WINDOW_BYTES, source.size), np.uint8)
    for start in range(0, source.size, WINDOW_BYTES):
        span = Span(start, min(start + WINDOW_BYTES, source.size), 0)
        fetch(source, window, [span], crc32c=None)
        for at in range(0, span.bytes, PIECE_BYTES):
            digests.add(window[at : min(at + PIECE_BYTES, span.bytes)].tobytes())
        advance.add(span.bytes)
    return digests
