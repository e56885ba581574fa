"""`illo demo` and the client commands against a real service."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from deploy.cli import run
from tests.programs import gone, until
from tests.service import Service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STORY = ROOT / "examples/storm.yaml"
DEMO = [sys.executable, "-c", "from deploy.cli import main; main()", "demo"]


def sizes_in(story: Path) -> dict[str, tuple[int, int]]:
    body: dict[str, Any] = yaml.safe_load(story.read_text())
    wanted = [{**body["defaults"], **scene} for scene in body["scenes"]]
    return {scene["key"]: (scene["width"], scene["height"]) for scene in wanted}


def sizes_of(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in folder.glob("*.png") if file.name != "contact-sheet.png"]
    return {file.stem: Image.open(file).size for file in files}


def programs_of(group: int) -> list[int]:
    """List the programs of a session, which is that of the demo and all it started."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,sess="], capture_output=True, text=True)
    pairs = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, session in pairs if int(session) == group and not gone(int(pid))]


def test_the_demo_draws_every_scene_in_its_size_and_leaves_nothing_running(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*DEMO, str(STORY), "-o", str(tmp_path / "out")], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    shown, said = demo.communicate(timeout=240)
    assert demo.returncode == 0, said
    assert sizes_of(tmp_path / "out") == sizes_in(STORY)
    assert Image.open(tmp_path / "out/contact-sheet.png").width > 100
    lines = (tmp_path / "out/results.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == list(sizes_in(STORY))
    assert all(key in shown for key in sizes_in(STORY))
    assert re.search(r"drawing p\d-", said), "which scene is drawn is told while it is"
    assert "illo up" in shown
    assert "the small artist" in said
    assert "draining" not in said  # nobody is there to press Ctrl-C once more
    assert programs_of(demo.pid) == []


def test_ctrl_c_ends_the_demo_and_all_it_started(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*DEMO, str(STORY), "-o", str(tmp_path / "out")], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    until(lambda: len(programs_of(demo.pid)) == 5, 60)  # demo, up, API, worker, queue
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert b"Traceback" not in said
    assert programs_of(demo.pid) == []
    assert not list(tmp_path.glob("illo-demo-*"))


def test_a_batch_is_drawn_reprocessed_and_shown(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story, out = tmp_path / "story.yaml", tmp_path / "out"
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "mia.png")
    story.write_text(
        "defaults: {references: [mia.png], width: 64, height: 64, steps: 2}\n"
        "scenes: [{key: a, prompt: Mia}, {key: b, prompt: Mia, width: 96, count: 2}]\n"
    )

    def illo(*arguments: str) -> Any:
        assert run([*arguments, "--url", service.url, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    batch = illo("batch", str(story), "-o", str(out))
    assert batch["status"] == "completed"
    assert sizes_of(out) == {"a": (64, 64), "b-0": (96, 64), "b-1": (96, 64)}
    before = (out / "a.png").read_bytes()

    unchanged = illo("reprocess", batch["id"], "--all", "--no-wait")
    assert [skipped["reason"] for skipped in unchanged["skipped"]] == ["unchanged"] * 2
    dry = illo("reprocess", batch["id"], "--scene", "a", "--seed", "new", "--dry-run")
    assert (dry["selected"], dry["skipped"]) == (1, [])
    again = illo("reprocess", batch["id"], "--scene", "a", "--seed", "new", "-o", str(out))
    assert again["status"] == "completed"
    assert (out / "a.png").read_bytes() != before

    assert illo("status", batch["id"])["counts"]["succeeded"] == 2
    assert len(illo("jobs", "--batch", batch["id"])["data"]) == 3


def test_a_drawing_with_a_seed_is_the_same_twice(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(out: Path, *more: str) -> bytes:
        wish = ["draw", "Mia", "--size", "64x64", "--steps", "2", "--format", "webp", *more]
        assert run([*wish, "-o", str(out), "--url", service.url]) == 0
        file = Path(capsys.readouterr().out.strip())
        assert file.suffix == ".webp"
        return Image.open(file).convert("RGB").tobytes()

    first = draw(tmp_path / "1", "--seed", "7")
    assert draw(tmp_path / "2", "--seed", "7") == first
    assert draw(tmp_path / "3", "--seed", "8") != first


def test_a_queued_job_is_canceled_and_the_queue_paused_and_resumed(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    def illo(*arguments: str) -> Any:
        assert run([*arguments, "--url", service.url, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    drained = illo("queue", "drain", "--reason", "new weights")
    assert drained["paused"]
    assert "new weights" in drained["reason"]
    job = service.post("/v1/jobs", {"prompt": "Mia", "width": 64, "height": 64})["id"]
    assert illo("cancel", job)["status"] == "canceled"
    assert run(["status", job, "--url", service.url]) == 1
    capsys.readouterr()
    assert not illo("queue", "resume")["paused"]
