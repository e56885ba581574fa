"""Put a weights directory into a bucket: the manifest, which announces the files, comes last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from shared.cloud_folders import CloudFolder
from shared.errors import WeightsDamaged, WeightsInTheWay, WeightsMissing
from shared.gcp.weights_upload import WeightsUpload
from shared.manifest import (
    NAME,
    Digests,
    Manifest,
    Role,
    WeightsFile,
    digests_of,
    parse_manifest,
    read_manifest,
)
from worker.pipeline.weights.files import check_digest, check_files, small_files
from worker.pipeline.weights.inspect import inspect_weights
from worker.pipeline.weights.lanes import in_lanes
from worker.pipeline.weights.push_plan import PARTS, Plan, Sending, is_same, plan_push
from worker.pipeline.weights.sending import PART_BYTES, FileSender

CONNECTIONS = 8
SENDINGS = 3  # of a file whose parts somebody else erases meanwhile
MOST_NAMED = 5  # of what is in the way

OnFile = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push has done; `sent_bytes` is what had to be sent this time."""

    place: str
    label: str
    sha256: str
    files: int
    bytes: int
    sent_bytes: int
    sent_files: tuple[str, ...]
    replaced: tuple[str, ...]


def push_weights(
    directory: Path,
    folder: CloudFolder,
    *,
    emulator: str | None = None,
    replacing: bool = False,
    connections: int = CONNECTIONS,
    part_bytes: int = PART_BYTES,
    on_file: OnFile = lambda name, fraction: None,
) -> Pushed:
    """Push the weights of a directory; pushed again after whatever end, it goes on.

    Raises WeightsMissing or WeightsDamaged if the directory is not what its manifest says,
    WeightsInTheWay if the folder has other weights, PushRefused or WeightsUnreachable.
    """
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    for file in small_files(manifest):
        check_digest(directory, file)  # before it is judged: a byte that changed is damage
    problem = inspect_weights(directory).problem
    if problem is not None:
        raise WeightsDamaged(problem)
    upload = WeightsUpload(folder, emulator=emulator)
    announcement = (directory / NAME).read_bytes()
    push = _Push(
        directory, folder, parse_manifest(announcement, str(directory / NAME)), announcement,
        upload=upload, connections=connections, part_bytes=part_bytes, on_file=on_file,
    )  # fmt: skip
    return push.run(replacing=replacing)


class _Push:
    def __init__(
        self,
        directory: Path,
        folder: CloudFolder,
        manifest: Manifest,
        announcement: bytes,
        *,
        upload: WeightsUpload,
        connections: int,
        part_bytes: int,
        on_file: OnFile,
    ) -> None:
        self._directory, self._folder = directory, folder
        self._announcement = announcement
        self._manifest = _with_checksums(directory, manifest)
        self._described = _described(announcement)
        self._upload, self._connections, self._part_bytes = upload, connections, part_bytes
        self._advance = _Advance(sum(file.bytes for file in manifest.files), on_file)

    def run(self, *, replacing: bool) -> Pushed:
        plan = self._plan()
        if plan.in_the_way and not replacing:
            raise WeightsInTheWay(self._in_the_way(plan))
        self._make_way(plan)
        for file in plan.there:
            self._advance.add(file.path, file.bytes, sent=False)
        self._send(plan.sendings)
        self._announce()
        self._advance.add(NAME, 0, sent=False)
        self._erase_parts()
        return Pushed(
            place=str(self._folder),
            label=self._manifest.label,
            sha256=self._manifest.sha256,
            files=len(self._manifest.files),
            bytes=sum(file.bytes for file in self._manifest.files),
            sent_bytes=self._advance.sent,
            sent_files=tuple(sending.file.path for sending in plan.sendings),
            replaced=tuple(each.path for each in plan.in_the_way),
        )

    def _plan(self) -> Plan:
        return plan_push(self._manifest, self._described, self._upload.files())

    def _make_way(self, plan: Plan) -> None:
        """Take the announcement away before anything is replaced: a half is no set of weights."""
        if plan.in_the_way and plan.announced is not None:
            self._upload.delete(plan.announced)
        for stranger in plan.strangers:
            self._upload.delete(stranger)

    def _send(self, sendings: Sequence[Sending]) -> None:
        small = [each for each in sendings if each.file.bytes <= self._part_bytes]
        in_lanes(self._send_one, small, lanes=self._connections)
        for sending in sendings:
            if sending.file.bytes > self._part_bytes:
                self._send_one(sending)

    def _send_one(self, sending: Sending) -> None:
        file = sending.file
        sender = FileSender(
            self._upload,
            self._directory / file.path,
            file,
            connections=self._connections,
            part_bytes=self._part_bytes,
            on_bytes=lambda count, sent: self._advance.add(file.path, count, sent=sent),
        )
        for _ in range(SENDINGS):
            try:
                return sender.send(over=sending.over)
            except WeightsMissing as gone:
                fault = gone
            # whoever pushed the same file beside us erased the parts when it was done
            found = self._upload.find(file.path)
            if found is not None and is_same(found, file):
                return None
        raise fault

    def _announce(self) -> None:
        """Put the manifest if all that it lists is there now, and nothing else that is loaded."""
        plan = self._plan()
        if plan.sendings or plan.in_the_way:
            raise WeightsInTheWay(self._in_the_way(plan))
        if not plan.same_manifest:
            self._upload.put(NAME, self._announcement, crc32c=self._described.crc32c or "")

    def _erase_parts(self) -> None:
        """Erase the parts that lie there, also those of pushes that were killed."""
        in_lanes(self._upload.erase, self._upload.files(PARTS), lanes=self._connections)

    def _in_the_way(self, plan: Plan) -> str:
        lost = [each.file.path for each in plan.sendings if not each.over]
        names = [each.path for each in plan.in_the_way] or lost
        shown = ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
        return (
            f"{self._folder}: has other contents than {self._directory}: {shown}; nothing was "
            "announced. Push to another folder, or with --replace"
        )


class _Advance:
    """Counts from many threads, and tells one after the other."""

    def __init__(self, total: int, on_file: OnFile) -> None:
        self.sent = 0
        self._total, self._done, self._on_file, self._lock = total or 1, 0, on_file, Lock()

    def add(self, name: str, count: int, *, sent: bool) -> None:
        with self._lock:
            self._done += count
            self.sent += count if sent else 0
            self._on_file(name, min(1.0, self._done / self._total))


def _with_checksums(directory: Path, manifest: Manifest) -> Manifest:
    """Find out the CRC32C of files whose manifest was written without; each is read for it."""
    return replace(manifest, files=tuple(_with_checksum(directory, f) for f in manifest.files))


def _with_checksum(directory: Path, file: WeightsFile) -> WeightsFile:
    if file.crc32c is not None:
        return file
    digests = digests_of(directory / file.path)
    if digests.sha256 != file.sha256:
        raise WeightsDamaged(
            f"{directory / file.path}: its sha256 is not the manifest's; see `illo weights verify`"
        )
    return replace(file, crc32c=digests.crc32c)


def _described(announcement: bytes) -> WeightsFile:
    digests = Digests()
    digests.add(announcement)
    return WeightsFile(
        path=NAME,
        role=Role.INDEX,
        bytes=len(announcement),
        sha256=digests.sha256,
        crc32c=digests.crc32c,
    )
