"""Open weights: read and judge everything but the tensors, before any of them is asked for."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import Digests, Manifest, Role, WeightsFile
from worker.pipeline.weights.fetch import Wanted, fetch
from worker.pipeline.weights.gguf_cursor import Cursor
from worker.pipeline.weights.gguf_header import GgufHeader, read_header_at
from worker.pipeline.weights.layout import ORDER, Layout, OpenedFile, lay_out
from worker.pipeline.weights.parts_check import check_clip, check_plain_encoder, check_vae
from worker.pipeline.weights.place import Place, large_files
from worker.pipeline.weights.prefix import Prefix
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.safetensors_header import (
    SafetensorsHeader,
    read_safetensors_header_at,
)
from worker.pipeline.weights.sources import Source
from worker.pipeline.weights.t5_check import (
    check_packed_encoder,
    find_packed_encoder,
    fitting_encoder_sizes,
)
from worker.pipeline.weights.transformer_check import check_transformer, read_sizes

PIECE_BYTES = 128 * 2**20  # fetched and then digested, where a manifest has no CRC32C


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Weights whose headers and small files were judged, and where their small files lie."""

    name: str
    manifest: Manifest
    folder: Path
    files: tuple[OpenedFile, ...]
    seconds: float

    @property
    def layout(self) -> Layout:
        """Where the tensors belong."""
        return lay_out(self.files)

    def of(self, role: Role) -> list[OpenedFile]:
        """The files of one model."""
        return [file for file in self.files if file.role is role]


def open_weights(place: Place) -> tuple[Opened, list[Wanted]]:
    """Judge the weights of a place; gives what is to be fetched of them, in the wanted order.

    Raises WeightsMissing, WeightsDamaged, WrongWeights or WeightsUnreachable.
    """
    began = time.monotonic()
    manifest = place.manifest()
    large = _in_order(place, manifest)
    with ThreadPoolExecutor(1 + len(large)) as pool:
        # beside each other: every answer of a bucket takes a while to come
        small = pool.submit(place.small_files, manifest)
        sources = place.sources(large)
        prefixes = [Prefix(source) for source in sources]
        reading = [pool.submit(_read_header, *each) for each in zip(sources, prefixes, strict=True)]
        folder = small.result()
        fitting_encoder_sizes(folder)  # of two faults the one that is easier to understand
        headers = [each.result() for each in reading]
    files = tuple(
        OpenedFile(role=file.role, header=header)
        for file, (header, _) in zip(large, headers, strict=True)
    )
    _check_headers(folder, manifest, files)
    opened = Opened(
        name=place.name,
        manifest=manifest,
        folder=folder,
        files=files,
        seconds=time.monotonic() - began,
    )
    wanted = [
        Wanted(
            source=source,
            spans=spans,
            crc32c=file.crc32c or checksum_by_digest(source, file),
            known=prefix.before(end),
        )
        for source, spans, file, prefix, (_, end) in zip(
            sources, opened.layout.spans, large, prefixes, headers, strict=True
        )
    ]
    return opened, wanted


def checksum_by_digest(source: Source, file: WeightsFile) -> str:
    """Read a file whose manifest has only its SHA-256, and give the CRC32C of just those bytes.

    So the fetch, which cannot digest ranges that come in any order, has something to check by.
    """
    digests = Digests()
    piece = np.empty(min(PIECE_BYTES, source.size), np.uint8)
    for start in range(0, source.size, PIECE_BYTES):
        part = piece[: source.size - start]
        fetch(source, part, [Span(start, start + part.size, 0)], crc32c=None)
        digests.add(part.tobytes())
    if digests.sha256 != file.sha256:
        raise WeightsDamaged(
            f"{source.name}: its sha256 is not the manifest's; download or upload the file again"
        )
    return digests.crc32c


def _in_order(place: Place, manifest: Manifest) -> list[WeightsFile]:
    large = large_files(manifest)
    for file in large:
        if file.role not in ORDER:
            raise WrongWeights(
                f"{place.name}/{file.path}: tensors of {file.role}, which has none; move it away"
            )
    transformers = [file for file in large if file.role is Role.TRANSFORMER]
    if len(transformers) != 1 or not transformers[0].path.endswith(".gguf"):
        raise WeightsMissing(
            f"{place.name}: the manifest lists {len(transformers)} transformer files of tensors, "
            "expected one .gguf; docs/weights.md says what belongs into the folder"
        )
    find_packed_encoder(place.name, manifest)
    for role in (Role.TEXT_ENCODER, Role.VAE):
        of_role = [file.path for file in large if file.role is role]
        if not of_role or any(not path.endswith(".safetensors") for path in of_role):
            raise WeightsMissing(
                f"{place.name}: the manifest lists {of_role or 'no file'} of {role}, expected "
                ".safetensors; docs/weights.md says what belongs into the folder"
            )
    return sorted(large, key=lambda file: ORDER.index(file.role))


def _read_header(source: Source, prefix: Prefix) -> tuple[GgufHeader | SafetensorsHeader, int]:
    """Give the header and the place behind it."""
    if source.name.endswith(".gguf"):
        header = read_header_at(Cursor(source.name, prefix, source.size))
        return header, prefix.tell()
    plain = read_safetensors_header_at(source.name, prefix, source.size)
    return plain, prefix.tell()


def _check_headers(folder: Path, manifest: Manifest, files: Sequence[OpenedFile]) -> None:
    plain: dict[Role, list[SafetensorsHeader]] = {}
    for file in files:
        if isinstance(file.header, SafetensorsHeader):
            plain.setdefault(file.role, []).append(file.header)
        elif file.role is Role.TRANSFORMER:
            config = folder / Role.TRANSFORMER / "config.json"
            check_transformer(file.header, config, manifest.expects)
        else:
            check_packed_encoder(file.header, fitting_encoder_sizes(folder))
    sizes = read_sizes(folder / Role.TRANSFORMER / "config.json")
    check_clip(plain[Role.TEXT_ENCODER], folder / Role.TEXT_ENCODER / "config.json", sizes)
    check_vae(plain[Role.VAE], folder / Role.VAE / "config.json", sizes)
    if Role.TEXT_ENCODER_2 in plain:
        check_plain_encoder(plain[Role.TEXT_ENCODER_2], fitting_encoder_sizes(folder))
