"""Weights pushed into a bucket: whole, killed in the middle, damaged on the way, two at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import run
from shared.cloud_folders import CloudFolder
from shared.errors import PushRefused, WeightsDamaged, WeightsInTheWay, WeightsMissing
from shared.gcp.weights_upload import WeightsUpload
from shared.manifest import Digests, Role, read_manifest
from tests import strict_storage as storage
from tests.strict_objects import Refused, StoredObject
from tests.strict_storage import BUCKET, StrictStorage
from worker.pipeline.weights.fetching import Fetching
from worker.pipeline.weights.push import Pushed, push_weights
from worker.pipeline.weights.sending import parts_of
from worker.pipeline.weights.verify import Verification
from worker.pipeline.weights.verify_bucket import verify_bucket

pytestmark = pytest.mark.slow

FOLDER = CloudFolder(BUCKET, "kontext")
MODEL, WORDS, MANIFEST = "transformer/model.gguf", "tokenizer/vocab.json", "manifest.json"
PART = 16 * 1024  # the tiny transformer has 34 of them: more than are made one object at once
# A push of its own, to be killed.
PUSH = """
import sys
from pathlib import Path
from shared.cloud_folders import read_cloud_folder
from worker.pipeline.weights.push import push_weights
push_weights(Path(sys.argv[1]), read_cloud_folder(sys.argv[2]), emulator=sys.argv[3], part_bytes=%d)
"""


@pytest.fixture
def weights(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny weights, to do harm to."""
    return Path(shutil.copytree(tiny, tmp_path / "weights"))


@pytest.fixture
def others(tiny: Path, tmp_path: Path) -> Path:
    """Sound weights with other contents: another transformer, and another label."""
    directory = Path(shutil.copytree(tiny, tmp_path / "others"))
    flip(directory / MODEL)
    manifest = json.loads((directory / MANIFEST).read_text()) | {"label": "others"}
    for file in manifest["files"]:
        if file["path"] == MODEL:
            digests = Digests()
            digests.add((directory / MODEL).read_bytes())
            file |= {"sha256": digests.sha256, "crc32c": digests.crc32c}
    (directory / MANIFEST).write_text(json.dumps(manifest))
    return directory


@pytest.fixture
def server() -> StrictStorage:
    return StrictStorage()


@pytest.fixture
def url(server: StrictStorage) -> Iterator[str]:
    with storage.strict_storage(server) as url:
        yield url


@pytest.fixture
def push(weights: Path, url: str) -> Callable[..., Pushed]:
    def push(directory: Path = weights, **wishes: Any) -> Pushed:
        return push_weights(directory, FOLDER, emulator=url, **{"part_bytes": PART, **wishes})

    return push


@pytest.fixture
def verified(url: str) -> Callable[[], Verification]:
    return lambda: verify_bucket(FOLDER, emulator=url, every_byte=True)


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def held(server: StrictStorage) -> dict[str, StoredObject]:
    return {
        name.removeprefix("kontext/"): found for (_, name), found in server.objects.held.items()
    }


def parts(server: StrictStorage) -> set[str]:
    return {name for name in held(server) if name.startswith(".parts/")}


def announced(server: StrictStorage) -> bool:
    return MANIFEST in held(server)


def sent(server: StrictStorage) -> list[str]:
    return [name.removeprefix("kontext/") for name in server.objects.sent]


# --- a whole set ----------------------------------------------------------------------------------


def test_a_pushed_set_is_whole_and_leaves_nothing_else(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    weights: Path,
) -> None:  # fmt: skip
    pushed = push()
    manifest = read_manifest(weights)
    assert verified().problems == ()
    assert set(held(server)) == {MANIFEST, *(file.path for file in manifest.files)}
    assert (pushed.label, pushed.sha256) == (manifest.label, manifest.sha256)
    assert pushed.bytes == pushed.sent_bytes == sum(file.bytes for file in manifest.files)
    assert len(sent(server)) == len(set(sent(server)))


def test_the_manifest_comes_after_everything_it_announces(
    push: Callable[..., Pushed], server: StrictStorage
) -> None:
    push()
    found = held(server)
    last = max(found.values(), key=lambda each: each.generation)
    assert last is found[MANIFEST]


@pytest.mark.slow
def test_a_worker_opens_what_was_pushed(
    push: Callable[..., Pushed], url: str, weights: Path
) -> None:
    push()
    with Fetching(str(FOLDER), endpoint=url, through_ring=False) as begun:
        opened = begun.opened()
        assert opened.manifest == read_manifest(weights)
        for role in (Role.TEXT_ENCODER, Role.VAE, Role.TEXT_ENCODER_2, Role.TRANSFORMER):
            begun.wait_for(role)
        begun.fetched()


def test_what_is_there_is_not_sent_again(
    push: Callable[..., Pushed], server: StrictStorage
) -> None:
    push()
    before, generations = len(sent(server)), {n: o.generation for n, o in held(server).items()}
    again = push()
    assert (again.sent_bytes, again.sent_files, again.replaced) == (0, (), ())
    assert len(sent(server)) == before
    assert {n: o.generation for n, o in held(server).items()} == generations


def test_a_file_that_got_lost_is_sent_alone(
    push: Callable[..., Pushed], server: StrictStorage, verified: Callable[[], Verification]
) -> None:
    push()
    del server.objects.held[BUCKET, FOLDER.name_of(WORDS)]
    assert push().sent_files == (WORDS,)
    assert verified().problems == ()


def test_a_whole_bucket_may_be_the_folder(weights: Path, url: str, server: StrictStorage) -> None:
    push_weights(weights, CloudFolder(BUCKET), emulator=url, part_bytes=PART)
    assert verify_bucket(CloudFolder(BUCKET), emulator=url).problems == ()
    assert (BUCKET, MANIFEST) in server.objects.held


def test_checksums_that_a_manifest_lacks_are_found_out(
    push: Callable[..., Pushed], weights: Path, verified: Callable[[], Verification]
) -> None:
    path = weights / MANIFEST
    manifest = json.loads(path.read_text())
    for file in manifest["files"]:
        del file["crc32c"]
    path.write_text(json.dumps(manifest))
    push()
    assert verified().problems == ()
    flip(weights / MODEL)
    with pytest.raises(WeightsDamaged, match=r"model\.gguf: its sha256"):
        push()


@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_is_asked_at_once_than_was_wished(
    push: Callable[..., Pushed], server: StrictStorage, connections: int
) -> None:
    here, most, lock = [0], [0], threading.Lock()
    both = threading.Barrier(connections)
    wait = iter(range(connections))

    def before(asked: str) -> None:
        if asked != storage.UPLOAD:
            return
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
            first = next(wait, None) is not None
        if first:
            both.wait(30)  # so many do come at once
        with lock:
            here[0] -= 1

    server.before = before
    push(connections=connections)
    assert most[0] == connections


# --- ended in the middle --------------------------------------------------------------------------


def push_to_be_killed(weights: Path, url: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PUSH % PART, str(weights), str(FOLDER), url],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_at(server: StrictStorage, what: str, number: int, weights: Path, url: str) -> None:
    """Let a push come as far as its n-th request of a kind, kill it there, and refuse the rest."""
    asked, here, go_on = iter(range(1, 10_000)), threading.Event(), threading.Event()
    lock = threading.Lock()

    def before(kind: str) -> None:
        with lock:
            reached = here.is_set() or (kind == what and next(asked) == number)
            if reached:
                here.set()
        if reached:
            go_on.wait(60)
            raise Refused(403, "its sender is dead")

    server.before = before
    program = push_to_be_killed(weights, url)
    try:
        assert here.wait(120)
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        go_on.set()
    assert program.returncode == -signal.SIGKILL
    server.before = lambda kind: None


KILLED_AT = [
    (storage.UPLOAD, 12),  # among small files
    (storage.UPLOAD, 30),  # among parts
    (storage.UPLOAD, 60),
    (storage.COMPOSE, 1),
    (storage.COMPOSE, 4),
    (storage.DELETE, 3),  # everything is there, and some parts are erased
]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "number"), KILLED_AT)
def test_a_killed_push_goes_on_and_sends_nothing_twice(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    weights: Path, url: str, what: str, number: int,
) -> None:  # fmt: skip
    kill_at(server, what, number, weights, url)
    there, already = set(held(server)), len(sent(server))
    assert len(there) > 5
    assert announced(server) == (what == storage.DELETE)
    if not announced(server):
        with pytest.raises(WeightsMissing, match="manifest"):
            verified()
    pushed = push()
    again = sent(server)[already:]
    assert not there & set(again)
    assert len(again) == len(set(again))
    total = pushed.bytes
    assert pushed.sent_bytes < total
    assert verified().problems == ()
    assert not parts(server)


@pytest.mark.slow
def test_parts_of_a_file_that_changed_are_not_gone_on_with(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    weights: Path, others: Path, url: str,
) -> None:  # fmt: skip
    kill_at(server, storage.COMPOSE, 4, weights, url)
    assert parts(server)
    push(others, replacing=True)
    assert held(server)[MODEL].data == (others / MODEL).read_bytes()
    assert verified().problems == ()
    assert not parts(server)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(weights: Path, server: StrictStorage, url: str) -> None:
    here, go_on = threading.Event(), threading.Event()

    def before(kind: str) -> None:
        if kind == storage.UPLOAD:
            here.set()
            go_on.wait(60)

    server.before = before
    program = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", "weights", "push",
         str(weights), str(FOLDER)],
        env={**os.environ, "STORAGE_EMULATOR_HOST": url}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        # tests that run in the background of a shell inherit that it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert here.wait(60)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)  # though its requests are not answered yet
    finally:
        go_on.set()
        program.kill()
    assert program.returncode == 130
    assert f"weights push {weights} {FOLDER}" in said
    assert not announced(server)


# --- what goes wrong on the way -------------------------------------------------------------------

PASSING = [
    *((storage.UPLOAD, fault) for fault in (
        storage.BUSY, storage.LOST, storage.GONE, storage.CUT, storage.FLIPPED)),
    *((storage.COMPOSE, fault) for fault in (storage.BUSY, storage.LOST, storage.GONE)),
    *((storage.DELETE, fault) for fault in (storage.BUSY, storage.LOST)),
    (storage.LIST, storage.BUSY),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("at", "fault"), PASSING)
def test_what_passes_is_gone_through(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    at: str, fault: str,
) -> None:  # fmt: skip
    server.fail(fault, at=at, times=2)
    push()
    server.heal()
    assert verified().problems == ()
    assert not parts(server)
    assert not server.objects.overwritten


@pytest.mark.slow
@pytest.mark.parametrize("fault", [storage.BUSY, storage.LOST, storage.GONE, storage.FLIPPED])
def test_a_large_part_is_sent_in_chunks_and_goes_on_behind_the_last(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    weights: Path, monkeypatch: pytest.MonkeyPatch, fault: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("google.cloud.storage.blob._MAX_MULTIPART_SIZE", 100_000)
    monkeypatch.setattr("shared.gcp.weights_upload.CHUNK", 256 * 1024)
    server.fail(fault, at=storage.PART)
    push(part_bytes=400_000)
    assert storage.BEGIN in server.seen
    assert server.seen.count(storage.PART) > server.seen.count(storage.BEGIN)
    assert verified().problems == ()


@pytest.mark.parametrize("at", [storage.UPLOAD, storage.COMPOSE, storage.DELETE, storage.LIST])
def test_what_is_forbidden_names_the_role(
    push: Callable[..., Pushed], server: StrictStorage, at: str
) -> None:
    server.fail(storage.FORBIDDEN, at=at)
    with pytest.raises(PushRefused, match=rf"objectUser on gs://{BUCKET}"):
        push()
    assert announced(server) == (at == storage.DELETE)


def test_a_bucket_that_does_not_exist_is_named(weights: Path, url: str) -> None:
    with pytest.raises(PushRefused, match="gs://no-such-bucket: there is no such bucket"):
        push_weights(weights, CloudFolder("no-such-bucket", "x"), emulator=url)


@pytest.mark.slow
@pytest.mark.parametrize("at", [storage.UPLOAD, storage.COMPOSE])
def test_a_bucket_that_stores_other_bytes_is_found_out(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    monkeypatch: pytest.MonkeyPatch, at: str,
) -> None:  # fmt: skip
    write, spoiling = server.objects.write, [True]

    def misstored(*given: Any, components: int = 0) -> StoredObject:
        bucket, described, data, query = given
        if spoiling[0] and (components > 0) == (at == storage.COMPOSE) and len(data) > PART / 2:
            unchecked = {key: value for key, value in described.items() if key != "crc32c"}
            return write(bucket, unchecked, bytes(len(data)), query, components=components)
        return write(bucket, described, data, query, components=components)

    monkeypatch.setattr(server.objects, "write", misstored)
    with pytest.raises(PushRefused, match="was stored with"):
        push()
    assert not announced(server)
    spoiling[0] = False
    push()
    assert verified().problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("composition", [1, 6, 7])
def test_a_part_that_rots_in_the_bucket_is_found_out_and_sent_again(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    composition: int,
) -> None:  # fmt: skip
    count = iter(range(1, 100))

    def rot(kind: str) -> None:
        if kind == storage.COMPOSE and next(count) == composition:
            for key, there in server.objects.held.items():
                if ".parts/" in key[1]:
                    data = there.data[:-1] + bytes([there.data[-1] ^ 1])
                    server.objects.held[key] = replace(there, data=data)

    server.before = rot
    with pytest.raises(PushRefused, match="was stored with"):
        push()
    assert not announced(server)
    push()
    assert verified().problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("path", [MODEL, "vae/diffusion_pytorch_model.safetensors", WORDS])
def test_a_byte_that_changed_on_the_disk_is_found_and_nothing_announced(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    weights: Path, path: str,
) -> None:  # fmt: skip
    flip(weights / path)  # the size is right, and no header is touched
    with pytest.raises(WeightsDamaged, match=r"its (crc32c is .*, |sha256 is not )the manifest"):
        push()
    assert not announced(server)
    assert path not in held(server)
    already = len(sent(server))
    flip(weights / path)
    push()
    again = sent(server)[already:]
    [file] = [file for file in read_manifest(weights).files if file.path == path]
    of_file = [name for name in again if name.startswith((path, parts_of(file)))]
    assert len(of_file) == 1  # the file, or its one part that was wrong
    assert not server.objects.overwritten  # the wrong one had a name of its own
    assert verified().problems == ()


def test_a_file_that_ends_early_is_damaged(
    push: Callable[..., Pushed], server: StrictStorage, weights: Path
) -> None:
    def cut_short(kind: str) -> None:
        if kind == storage.UPLOAD:
            os.truncate(weights / MODEL, 100)

    server.before = cut_short
    with pytest.raises(WeightsDamaged, match=r"model\.gguf: ended early"):
        push()
    assert not announced(server)


def test_weights_that_are_none_are_not_begun_with(
    push: Callable[..., Pushed], server: StrictStorage, weights: Path
) -> None:
    (weights / WORDS).unlink()
    with pytest.raises(WeightsMissing, match=r"vocab\.json: not there"):
        push()
    (weights / MANIFEST).unlink()
    with pytest.raises(WeightsMissing, match=r"manifest\.json: not there"):
        push()
    assert not server.seen


# --- what is there already, and what comes meanwhile ----------------------------------------------


def test_other_weights_are_neither_overwritten_nor_mixed_with(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    others: Path,
) -> None:  # fmt: skip
    push()
    before = held(server)
    with pytest.raises(WeightsInTheWay, match=r"model\.gguf, manifest\.json.*--replace"):
        push(others)
    assert held(server) == before
    pushed = push(others, replacing=True)
    assert pushed.replaced == (MODEL, MANIFEST)
    assert pushed.sent_files == (MODEL,)
    assert verified().problems == ()
    assert verified().label == "others"


def test_half_a_push_of_others_is_in_the_way_too(
    push: Callable[..., Pushed], server: StrictStorage, others: Path
) -> None:
    push()
    del server.objects.held[BUCKET, FOLDER.name_of(MANIFEST)]
    with pytest.raises(WeightsInTheWay, match=MODEL):
        push(others)
    assert not announced(server)


def test_a_stranger_that_a_loader_might_read_is_in_the_way(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage
) -> None:
    for name in ("vae/adapter_config.json", "README.md"):
        server.objects.write(BUCKET, {"name": FOLDER.name_of(name)}, b"{}", {})
    with pytest.raises(WeightsInTheWay, match="adapter_config"):
        push()
    assert push(replacing=True).replaced == ("vae/adapter_config.json",)
    assert "README.md" in held(server)
    assert verified().problems == ()


def test_while_weights_are_replaced_none_are_announced(
    push: Callable[..., Pushed], server: StrictStorage, others: Path
) -> None:
    push()
    server.fail(storage.FORBIDDEN, at=storage.UPLOAD)
    with pytest.raises(PushRefused):
        push(others, replacing=True)
    assert not announced(server)
    push(others, replacing=True)
    assert announced(server)


def test_what_somebody_else_put_there_meanwhile_is_not_overwritten(
    push: Callable[..., Pushed], server: StrictStorage
) -> None:
    def be_first(kind: str) -> None:
        if kind == storage.UPLOAD:
            server.before = lambda kind: None
            server.objects.write(BUCKET, {"name": FOLDER.name_of(WORDS)}, b"{}", {})

    server.before = be_first
    with pytest.raises(WeightsInTheWay, match=r"vocab\.json: something else was put there"):
        push()
    assert held(server)[WORDS].data == b"{}"
    assert not announced(server)


@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_what_changed_while_the_rest_was_sent_is_not_announced(
    push: Callable[..., Pushed], server: StrictStorage, change: str
) -> None:
    def meddle(kind: str) -> None:
        if kind == storage.LIST and MODEL in held(server):
            del server.objects.held[BUCKET, FOLDER.name_of(WORDS)]
            if change == "replaced":
                server.objects.write(BUCKET, {"name": FOLDER.name_of(WORDS)}, b"{}", {})
            server.before = lambda kind: None

    server.before = meddle
    with pytest.raises(WeightsInTheWay, match=WORDS):
        push()
    assert not announced(server)


@pytest.mark.slow
@pytest.mark.parametrize("at", [storage.UPLOAD, storage.COMPOSE, storage.LIST])
def test_two_pushes_of_the_same_set_end_as_one(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    at: str,
) -> None:  # fmt: skip
    both, number, lock = threading.Barrier(2, timeout=60), iter(range(2)), threading.Lock()

    def together(kind: str) -> None:
        if kind == at:
            with lock:
                first = next(number, None)
            if first is not None:
                both.wait()

    server.before = together
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(push, connections=1) for _ in range(2)]
    assert {end.result().sha256 for end in ends} == {ends[0].result().sha256}
    assert verified().problems == ()
    assert not server.objects.overwritten
    assert not parts(server)


@pytest.mark.slow
def test_parts_that_the_other_push_has_erased_are_no_fault(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage
) -> None:
    waits, other_ended = threading.Event(), threading.Event()
    slow: list[Pushed] = []

    def late(kind: str) -> None:
        if kind == storage.COMPOSE and not waits.is_set():
            waits.set()
            other_ended.wait(60)

    server.before = late
    thread = threading.Thread(target=lambda: slow.append(push()))
    thread.start()
    assert waits.wait(60)
    push()
    other_ended.set()
    thread.join()
    assert len(slow) == 1
    assert verified().problems == ()
    assert not parts(server)


@pytest.mark.slow
def test_of_two_sets_at_once_at_most_one_is_announced(
    push: Callable[..., Pushed], verified: Callable[[], Verification], server: StrictStorage,
    weights: Path, others: Path,
) -> None:  # fmt: skip
    both, number, lock = threading.Barrier(2, timeout=60), iter(range(2)), threading.Lock()

    def together(kind: str) -> None:
        if kind == storage.LIST:
            with lock:
                first = next(number, None)
            if first is not None:
                both.wait()

    def attempt(directory: Path) -> bool:
        try:
            push(directory)
        except WeightsInTheWay:
            return False
        return True

    server.before = together
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(attempt, (weights, others)))
    assert ends.count(True) <= 1
    assert announced(server) == any(ends)
    assert not server.objects.overwritten
    if any(ends):
        assert verified().problems == ()


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def at_home(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)


@pytest.mark.usefixtures("at_home")
def test_the_command_pushes_and_says_what_it_did(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["weights", "push", str(weights), f"{FOLDER}/", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    manifest = read_manifest(weights)
    assert told["place"] == str(FOLDER)
    assert told["sha256"] == manifest.sha256
    assert told["sent_bytes"] == told["bytes"]
    assert run(["weights", "push", str(weights), str(FOLDER)]) == 0
    said = capsys.readouterr()
    assert "everything was there already" in said.out
    assert "100%" in said.err
    assert run(["weights", "verify", str(FOLDER)]) == 0


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("place", "ending", "said"),
    [
        ("somewhere", 2, "must be gs://bucket/prefix"),
        ("s3://bucket/x", 2, "only gs:// URLs"),
        ("gs://no-such-bucket/x", 1, "there is no such bucket"),
    ],
)
def test_the_command_says_what_is_wrong(
    weights: Path, capsys: pytest.CaptureFixture[str], place: str, ending: int, said: str
) -> None:
    assert run(["weights", "push", str(weights), place]) == ending
    assert said in capsys.readouterr().err


def test_the_command_needs_a_bucket_that_answers(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.strict_storage() as url:
        pass
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    impatient = partial(WeightsUpload, patience=timedelta(seconds=0.3))
    monkeypatch.setattr("worker.pipeline.weights.push.WeightsUpload", impatient)
    assert run(["weights", "push", str(weights), str(FOLDER)]) == 1
    said = capsys.readouterr().err
    assert "try again later" in said
    assert "Go on with" in said


@pytest.mark.slow
def test_pushing_needs_neither_torch_nor_numpy(weights: Path, url: str) -> None:
    code = PUSH % PART + "\nprint(*{'torch', 'numpy', 'flask', 'diffusers'} & set(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(weights), str(FOLDER), url],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert ended.stdout.strip() == ""
