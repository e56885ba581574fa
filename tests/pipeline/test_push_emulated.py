"""Weights pushed to a storage emulator, which is not of our making: killed, damaged, resumed."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from deploy.cli import run
from deploy.emulators import Hosts
from shared.cloud_folders import CloudFolder
from shared.errors import WeightsInTheWay
from shared.gcp.weights import CloudFile
from shared.gcp.weights_upload import WeightsUpload
from shared.manifest import read_manifest
from worker.pipeline.weights.push import push_weights
from worker.pipeline.weights.verify_bucket import verify_bucket

MODEL, PART = "transformer/model.gguf", 16 * 1024
# Pushes until so many objects were sent, says so, and waits to be killed.
PUSH = """
import sys, threading, time
from pathlib import Path
from shared.cloud_folders import read_cloud_folder
from shared.gcp.weights_upload import WeightsUpload
from worker.pipeline.weights.push import push_weights
put, left, lock = WeightsUpload.put, iter(range(%d)), threading.Lock()
def wait_to_be_killed(self, *given, **wishes):
    with lock:
        if next(left, None) is None:
            print("here", flush=True)
            time.sleep(600)
        return put(self, *given, **wishes)
WeightsUpload.put = wait_to_be_killed
push_weights(Path(sys.argv[1]), read_cloud_folder(sys.argv[2]), emulator=sys.argv[3], part_bytes=%d)
"""


@pytest.fixture
def bucket(emulators: Hosts) -> Any:
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    at = {"api_endpoint": emulators.storage}
    client = Client(project="illo-test", credentials=nobody, client_options=at)
    return client.create_bucket(f"push-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def folder(bucket: Any) -> CloudFolder:
    return CloudFolder(bucket.name, "kontext")


def names(bucket: Any) -> set[str]:
    return {blob.name.removeprefix("kontext/") for blob in bucket.list_blobs()}


def test_a_pushed_set_is_whole(tiny: Path, bucket: Any, folder: CloudFolder) -> None:
    assert run(["weights", "push", str(tiny), str(folder)]) == 0
    assert names(bucket) == {"manifest.json", *(file.path for file in read_manifest(tiny).files)}
    assert run(["weights", "verify", str(folder), "--every-byte"]) == 0


@pytest.mark.parametrize("objects", [5, 30, 60])
def test_a_killed_push_goes_on_and_sends_nothing_twice(
    tiny: Path, bucket: Any, folder: CloudFolder, emulators: Hosts,
    monkeypatch: pytest.MonkeyPatch, objects: int,
) -> None:  # fmt: skip
    kill_after(objects, tiny, folder, emulators.storage)
    there = names(bucket)
    assert len(there) >= objects
    assert "manifest.json" not in there
    sent: list[str] = []
    put = WeightsUpload.put

    def noted(self: WeightsUpload, path: str, *given: Any, **wishes: Any) -> CloudFile:
        sent.append(path)
        return put(self, path, *given, **wishes)

    monkeypatch.setattr(WeightsUpload, "put", noted)
    pushed = push_weights(tiny, folder, emulator=emulators.storage, part_bytes=PART)
    assert sent
    assert not there & set(sent)
    assert pushed.sent_bytes < pushed.bytes
    assert names(bucket) == {"manifest.json", *(file.path for file in read_manifest(tiny).files)}
    assert verify_bucket(folder, emulator=emulators.storage, every_byte=True).problems == ()


def test_a_flipped_byte_is_found_and_mended_where_it_is_a_part(
    tiny: Path, bucket: Any, folder: CloudFolder, emulators: Hosts
) -> None:
    kill_after(60, tiny, folder, emulators.storage)
    part = next(blob for blob in bucket.list_blobs(prefix="kontext/.parts/"))
    flip(part)
    push_weights(tiny, folder, emulator=emulators.storage, part_bytes=PART)
    assert verify_bucket(folder, emulator=emulators.storage, every_byte=True).problems == ()


def test_a_flipped_byte_is_found_and_told_where_it_is_a_file(
    tiny: Path, bucket: Any, folder: CloudFolder, emulators: Hosts
) -> None:
    push_weights(tiny, folder, emulator=emulators.storage, part_bytes=PART)
    flip(bucket.blob(f"kontext/{MODEL}"))
    with pytest.raises(WeightsInTheWay, match=MODEL):
        push_weights(tiny, folder, emulator=emulators.storage, part_bytes=PART)
    pushed = push_weights(tiny, folder, emulator=emulators.storage, replacing=True)
    assert pushed.sent_files == pushed.replaced == (MODEL,)
    assert verify_bucket(folder, emulator=emulators.storage, every_byte=True).problems == ()


def flip(blob: Any) -> None:
    content = bytearray(blob.download_as_bytes())
    content[len(content) // 2] ^= 1
    blob.bucket.blob(blob.name).upload_from_string(bytes(content))


def kill_after(objects: int, weights: Path, folder: CloudFolder, url: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PUSH % (objects, PART), str(weights), str(folder), url],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert program.stdout
        assert program.stdout.readline() == "here\n"
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.communicate()
    assert program.returncode == -signal.SIGKILL
