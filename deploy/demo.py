"""Draw the example story through real programs, from an empty folder, and leave none behind."""

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.client import Client
from deploy.lifeline import Lifeline
from deploy.story import SavedScene, save_batch, submit_file, wait_for_batch
from shared.errors import ServiceUnreachable
from shared.settings import process_environment

# The demo is for whoever sits here, on this machine alone: who may ask for how much is left out.
NOT_FOR_A_DEMO = (
    "ILLO_BACKEND",
    "ILLO_KEYS",
    "ILLO_QUOTA_QUEUED_JOBS",
    "ILLO_QUOTA_JOBS_PER_DAY",
    "ILLO_QUOTA_GPU_SECONDS_PER_DAY",
)
DRAIN_SECONDS = 25  # what `illo up` takes at most


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnScene:
    """A scene of the story: the job that drew it, and its files."""

    key: str
    job: Any
    files: Sequence[Path]


def draw_story(file: Path, out: Path) -> list[DrawnScene]:
    """Run an illo of its own, have a batch file drawn, save the results, and end the illo."""
    # SIGTERM ends as Ctrl-C does: in order, with nothing left behind.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            _folder() as data,
            _illo(data) as client,
        ):
            batch = submit_file(client, file)
            wait_for_batch(client, batch["id"])
            return [_drawn(client, scene) for scene in save_batch(client, batch["id"], out)]
    finally:
        signal.signal(signal.SIGTERM, former)


def demo_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Leave out the settings of a deployment that others use."""
    return {name: value for name, value in given.items() if name not in NOT_FOR_A_DEMO}


@contextmanager
def _folder() -> Iterator[Path]:
    folder, kept = Path(tempfile.mkdtemp(prefix="illo-demo-")), False
    try:
        yield folder
    except ServiceUnreachable:
        kept = True  # the message names logs that lie there
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _illo(data: Path) -> Iterator[Client]:
    with closing(Lifeline()) as lifeline:
        up = lifeline.start(
            "from deploy.cli import main; main()",
            *("up", "--json", "--port", "0", "--data", str(data)),
            environment=demo_environment(process_environment()),
            stdout=subprocess.PIPE,
        )
        try:
            assert up.stdout is not None
            line = up.stdout.readline()
            if not line:
                raise ServiceUnreachable("`illo up` ended before it was ready; see above")
            yield Client(json.loads(line)["url"])
        finally:
            _end(up)


def _end(up: "subprocess.Popen[bytes]") -> None:
    up.send_signal(signal.SIGTERM)
    try:
        up.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        up.kill()  # its children follow
        up.wait()


def _drawn(client: Client, scene: SavedScene) -> DrawnScene:
    id = scene.result["job"]
    job = client.get(f"/v1/jobs/{id}").json() if id else None
    return DrawnScene(key=scene.result["key"], job=job, files=scene.files)
