"""The command line: it starts lightly, ends as promised, and never shows a traceback."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import client
from deploy.cli import COMMANDS, run
from shared.settings import process_environment
from tests.fake_service import FakeService, a_job_body, an_image_body, problem

HEAVY = ("torch", "google", "flask", "diffusers", "transformers", "werkzeug", "numpy")
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def _quickly_discouraged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STRANGER_PATIENCE", 0.0)
    monkeypatch.setattr(client, "FRIEND_PATIENCE", 0.0)
    monkeypatch.delenv("ILLO_URL", raising=False)
    monkeypatch.delenv("ILLO_KEY", raising=False)


@pytest.fixture
def service() -> FakeService:
    with FakeService() as running:
        yield running


def in_a_fresh_interpreter(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


def heavy_after(*arguments: str) -> list[str]:
    code = (
        "import sys; from deploy.cli import run; run(sys.argv[1:]); "
        f"print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    )
    ended = in_a_fresh_interpreter(code, *arguments)
    assert "Traceback" not in ended.stderr
    return list(json.loads(ended.stderr.splitlines()[-1].replace("'", '"')))


def test_help_imports_nothing_heavy_and_lists_every_command() -> None:
    assert heavy_after("--help") == []
    listed = in_a_fresh_interpreter("from deploy.cli import main; main()", "--help").stdout
    assert all(name in listed for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("draw", "Mia"),
        ("batch", "examples/storm.yaml"),
        ("reprocess", "bat_x", "--all"),
        ("status", "job_x"),
        ("jobs",),
        ("cancel", "job_x"),
        ("queue", "drain"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_client_command_imports_nothing_heavy_and_says_that_nobody_is_there(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert heavy_after(*arguments, "--url", NOBODY) == []
    assert run([*arguments, "--url", NOBODY]) == 3
    said = capsys.readouterr()
    assert NOBODY in said.err
    assert "illo up" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["paint"],
        ["draw"],
        ["draw", "Mia", "--size", "huge"],
        ["draw", "Mia", "-r", "no-such-file.png"],
        ["draw", "Mia", "--url", "ftp://127.0.0.1"],
        ["batch", "no-such-file.yaml"],
        ["reprocess", "bat_x"],
        ["reprocess", "bat_x", "--all", "--failed"],
        ["jobs", "--status", "lost"],
        ["jobs", "--metadata", "book"],
        ["queue", "stop"],
        ["up", "--host", "0.0.0.0"],
        ["up", "--port", "70000"],
        ["demo", "no-such-story.yaml"],
    ],
    ids=" ".join,
)
def test_wrong_use_ends_with_2_and_says_why(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err


def test_up_names_every_wrong_setting_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ILLO_STEPS", "9")
    assert run(["up", "--port", "-1", "--workers", "0"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("ILLO_STEPS", "PORT", "ILLO_WORKERS"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("scenes: [", "YAML"),
        ("just words", "scenes"),
        ("title: none", "scenes"),
        ("scenes: [{key: a, prompt: b, references: [gone.png]}]", "gone.png"),
        ("defaults: {references: [gone.png]}\nscenes: []", "gone.png"),
    ],
)
def test_a_batch_file_that_cannot_be_used_is_wrong_use(
    tmp_path: Path, content: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "story.yaml"
    file.write_text(content)
    assert run(["batch", str(file), "--url", NOBODY]) == 2
    assert complaint in capsys.readouterr().err


def test_a_drawn_job_is_saved_and_its_file_printed(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body("succeeded", images=[an_image_body(b"png")]))
    service.answer("GET", "/v1/jobs/job_a/images/0", b"png")
    assert run(["draw", "Mia", "-o", str(tmp_path), "--url", service.url]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'job_a.png'}\n"
    assert (tmp_path / "job_a.png").read_bytes() == b"png"
    assert service.bodies("POST", "/v1/jobs") == [{"prompt": "Mia", "references": []}]


def test_several_pictures_of_a_job_are_numbered(service: FakeService, tmp_path: Path) -> None:
    images = [an_image_body(b"one"), an_image_body(b"two", index=1)]
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body("succeeded", images=images))
    service.answer("GET", "/v1/jobs/job_a/images/0", b"one")
    service.answer("GET", "/v1/jobs/job_a/images/1", b"two")
    assert run(["draw", "Mia", "-o", str(tmp_path), "--url", service.url]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job_a-0.png", "job_a-1.png"]


def test_damaged_bytes_are_not_saved(service: FakeService, tmp_path: Path) -> None:
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body("succeeded", images=[an_image_body(b"png")]))
    service.answer("GET", "/v1/jobs/job_a/images/0", b"pn")
    assert run(["draw", "Mia", "-o", str(tmp_path), "--url", service.url]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_job_that_was_not_drawn_ends_with_1(
    service: FakeService, tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "blank_image", "message": "it came out blank", "retryable": False}
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body(status, error=error))
    assert run(["draw", "Mia", "-o", str(tmp_path), "--url", service.url]) == 1
    assert "it came out blank" in capsys.readouterr().err
    assert run(["status", "job_a", "--url", service.url]) == 1


def test_a_refusal_ends_with_2_and_names_every_fault(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {"/width": "should be a multiple of 16", "/steps": "should be at most 100"}
    service.answer("POST", "/v1/jobs", problem(422, "invalid_request", faults), status=422)
    assert run(["draw", "Mia", "--url", service.url]) == 2
    said = capsys.readouterr().err
    assert all(pointer in said and detail in said for pointer, detail in faults.items())


@pytest.mark.parametrize(("status", "code"), [(401, 2), (404, 2), (409, 2), (500, 3), (503, 3)])
def test_what_the_service_answers_decides_the_exit_code(
    service: FakeService, status: int, code: int
) -> None:
    service.answer("GET", "/v1/jobs/job_a", problem(status, "said_so"), status=status)
    assert run(["status", "job_a", "--url", service.url]) == code


def test_something_else_that_answers_is_no_service(service: FakeService) -> None:
    service.answer("GET", "/v1/queue", b"<html>hello</html>")
    assert run(["queue", "--url", service.url]) == 3


def test_the_key_comes_from_the_environment(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answer("GET", "/v1/jobs", {"data": [], "next_cursor": None})
    monkeypatch.setenv("ILLO_KEY", "illo_a_secret")
    monkeypatch.setenv("ILLO_URL", service.url)
    assert run(["jobs"]) == 0
    assert service.requests[-1].headers["Authorization"] == "Bearer illo_a_secret"


def test_json_is_one_document_on_standard_output(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = a_job_body("succeeded", images=[an_image_body(b"png")])
    queue = {"paused": False, "reason": None, "counts": {"queued": {}, "running": {}}}
    batch = {"id": "bat_a", "object": "batch", "status": "completed", "counts": {"succeeded": 1}}
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", job)
    service.answer("GET", "/v1/jobs/job_a/images/0", b"png")
    service.answer("GET", "/v1/jobs", {"data": [job], "next_cursor": None})
    service.answer("POST", "/v1/jobs/job_a/cancel", job)
    service.answer("GET", "/v1/queue", queue)
    service.answer("POST", "/v1/queue/pause", queue)
    service.answer("GET", "/v1/batches/bat_a", batch)
    found = {}
    for arguments in (
        ["draw", "Mia", "-o", str(tmp_path)],
        ["status", "job_a"],
        ["status", "bat_a"],
        ["jobs"],
        ["cancel", "job_a"],
        ["queue"],
        ["queue", "drain"],
    ):
        assert run([*arguments, "--json", "--url", service.url]) == 0
        found[" ".join(arguments[:2])] = json.loads(capsys.readouterr().out)
    assert found["draw Mia"]["files"] == [str(tmp_path / "job_a.png")]
    assert found["status job_a"] == found["cancel job_a"] == job
    assert found["status bat_a"] == batch
    assert found["jobs"]["data"] == [job]
    assert found["queue"] == found["queue drain"] == queue


def test_drain_waits_until_nothing_is_drawn(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawing(count: int) -> dict[str, object]:
        counts = {"queued": {"normal": 3}, "running": {"normal": count}}
        return {"paused": True, "reason": "draining", "counts": counts}

    monkeypatch.setattr("deploy.commands.queue.LOOK_EVERY", 0.0)
    service.answer("POST", "/v1/queue/pause", drawing(2))
    service.answer("GET", "/v1/queue", drawing(2), drawing(1), drawing(0))
    assert run(["queue", "drain", "--url", service.url]) == 0
    assert len(service.asked("GET", "/v1/queue")) == 4  # three looks, and the last to be shown


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(service: FakeService) -> None:
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body("running"))
    program = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", "draw", "Mia"],
        env={**process_environment(), "ILLO_URL": service.url},
        stderr=subprocess.PIPE,
        text=True,
    )
    service.wait_for("GET", "/v1/jobs/job_a")
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=30)
    assert program.returncode == 130
    assert "illo status job_a --wait" in said
    assert "illo cancel job_a" in said
    assert "Traceback" not in said


def test_a_reader_that_leaves_early_is_no_error(service: FakeService) -> None:
    jobs = [a_job_body("succeeded") for _ in range(2000)]
    service.answer("GET", "/v1/jobs", {"data": jobs, "next_cursor": None})
    program = subprocess.Popen(
        [sys.executable, "-c", "from deploy.cli import main; main()", "jobs", "--limit", "2000"],
        env={**process_environment(), "ILLO_URL": service.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    said = program.stderr.read()
    program.wait(30)
    assert said == b""
