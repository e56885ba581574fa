"""The command line: it starts lightly, ends as promised, and never shows a traceback."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from api.requests import SceneFields
from deploy import client
from deploy.arguments import require_writable
from deploy.cli import run
from deploy.console import HERE, called_as, command_line
from deploy.root import COMMANDS
from deploy.scene_options import NEW_SCENE
from deploy.tables import fitting
from shared.settings import process_environment
from tests.fake_service import FakeService, a_job_body, an_image_body, problem
from worker.pipeline.tiny import make_tiny_weights

HEAVY = ("torch", "google", "flask", "diffusers", "transformers", "werkzeug", "numpy")
ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture(autouse=True)
def _quickly_discouraged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STRANGER_PATIENCE", 0.0)
    monkeypatch.setattr(client, "FRIEND_PATIENCE", 0.0)
    monkeypatch.delenv("ILLO_URL", raising=False)
    monkeypatch.delenv("ILLO_KEY", raising=False)
    monkeypatch.delenv("ILLO_KEYS", raising=False)


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


def test_weights_are_prepared_and_verified_without_anything_heavy(
    weights: Path, tmp_path: Path
) -> None:
    models = [f"--transformer={weights}/transformer/model.gguf"]
    models += [f"--t5={weights}/text_encoder_2/model.gguf", f"--from={weights}"]
    assert heavy_after("weights", "prepare", *models, "-o", str(tmp_path / "made")) == []
    assert heavy_after("weights", "verify", str(tmp_path / "made")) == []
    assert run(["weights", "verify", str(tmp_path / "made")]) == 0


def test_what_reads_weights_says_at_its_end_that_all_was_read(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [f"--transformer={weights}/transformer/model.gguf"]
    models += [f"--t5={weights}/text_encoder_2/model.gguf", f"--from={weights}"]
    assert run(["weights", "prepare", *models, "-o", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "100%  manifest.json"
    assert run(["weights", "verify", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "100%  headers"


def test_keys_are_made_without_anything_heavy() -> None:
    assert heavy_after("keys", "new", "--tenant", "ada") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["paint"],
        ["draw"],
        ["draw", "Mia", "--size", "huge"],
        ["draw", "Mia", "-r", "no-such-file.png"],
        ["draw", "Mia", "--url", "ftp://127.0.0.1"],
        ["batch", "no-such-file.yaml"],
        ["draw", "Mia", "-r", "examples"],
        ["draw", "Mia", "-o", "/dev/null"],
        ["draw", "Mia", "-o", "/dev/null/out"],
        ["status", "../queue"],
        ["status", "asset_x"],
        ["cancel", "job_x/../../queue/pause"],
        ["jobs", "--batch", "job_x"],
        ["reprocess", "job_x", "--all"],
        ["reprocess", "bat_x"],
        ["reprocess", "bat_x", "--all", "--failed"],
        ["jobs", "--status", "lost"],
        ["jobs", "--metadata", "book"],
        ["queue", "stop"],
        ["queue", "--reason", "foo"],
        ["queue", "resume", "--reason", "foo"],
        ["up", "--host", "0.0.0.0"],
        ["up", "--port", "70000"],
        ["up", "--weights", "nowhere"],
        ["demo", "no-such-story.yaml"],
        ["keys", "paint"],
        ["keys", "new"],
        ["keys", "list"],
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
    assert all(name in said for name in ("ILLO_STEPS: ", "--port (PORT): ", "--workers (ILLO_"))
    assert "--steps" not in said  # it was no flag


def test_weights_that_are_not_there_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["up", "--weights", "nowhere", "--data", "kept"]) == 2
    said = capsys.readouterr().err
    assert "--weights (ILLO_WEIGHTS): nowhere/manifest.json: not there" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("ILLO_WEIGHTS", "nowhere/manifest.json: not there"),
        ("ILLO_HOST", "needs API keys"),
        ("ILLO_WORKERS", "not 'nowhere'"),
    ],
)
def test_the_demo_refuses_a_bad_setting_before_anything_starts(
    setting: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(setting, "nowhere")
    monkeypatch.setattr("deploy.demo.draw_story", pytest.fail)
    assert run(["demo", str(ROOT / "examples/storm.yaml")]) == 2
    said = capsys.readouterr().err
    assert f"{setting}: " in said
    assert complaint in said
    assert "drawing" not in said


def test_the_demo_says_where_its_story_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["demo"]) == 2
    assert "go to illo's repository" in capsys.readouterr().err


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


@pytest.mark.parametrize(("unread", "told"), [(3, True), (0, False), (None, False)])
def test_a_prompt_whose_end_was_not_read_is_told(
    service: FakeService,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unread: int | None,
    told: bool,
) -> None:
    took = {"gpu_seconds": 1.5, "unread_tokens": unread}
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body("succeeded", metrics=took))
    assert run(["draw", "Mia", "-o", str(tmp_path), "--url", service.url]) == 0
    said = "the end of the prompt was not read, 3 tokens" in capsys.readouterr().err
    assert said is told


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


def test_a_fault_that_is_the_whole_refusal_is_told_once(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = problem(422, "invalid_image", {"/file": "this is invalid_image"})
    service.answer("POST", "/v1/jobs", refused, status=422)
    assert run(["draw", "Mia", "--url", service.url]) == 2
    assert capsys.readouterr().err == "illo: this is invalid_image\n"


@pytest.mark.parametrize("how", ["draw", "batch"])
def test_of_several_pictures_the_refused_one_is_named(
    service: FakeService, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [tmp_path / name for name in ("bed.png", "mia.png", "storm.png")]
    for picture in pictures:
        picture.write_bytes(picture.name.encode())
    service.answer("POST", "/v1/assets", {"id": "ast_bed"})
    refused = problem(422, "invalid_image", {"/file": "this is invalid_image"})
    service.answer("POST", "/v1/assets", refused, status=422)
    batch = {"scenes": [{"key": "one", "prompt": "Mia", "references": [p.name for p in pictures]}]}
    (tmp_path / "batch.json").write_text(json.dumps(batch))
    several = [argument for picture in pictures for argument in ("-r", str(picture))]
    arguments = {"draw": ["Mia", *several], "batch": [str(tmp_path / "batch.json")]}
    assert run([how, *arguments[how], "--url", service.url]) == 2
    assert capsys.readouterr().err == f"illo: {pictures[1]}: this is invalid_image\n"


def test_a_caller_who_is_refused_is_not_told_of_a_picture(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mia.png").touch()
    service.answer("POST", "/v1/assets", problem(401, "unauthenticated"), status=401)
    assert run(["draw", "Mia", "-r", str(tmp_path / "mia.png"), "--url", service.url]) == 2
    assert "mia.png" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "ending", "code"),
    [
        (["draw", "Mia"], 2, "invalid_request"),
        (["status", "job_x"], 2, "not_found"),
        (["status", "../queue"], 2, "wrong_use"),
        (["draw"], 2, "wrong_use"),
        (["up", "--weights", "nowhere"], 2, "wrong_use"),
        (["queue", "--url", NOBODY], 3, "unreachable"),
    ],
)
def test_with_json_an_error_is_a_document_too(
    service: FakeService,
    arguments: list[str],
    ending: int,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ILLO_URL", service.url)
    if arguments[0] == "up":
        monkeypatch.delenv("ILLO_URL")
    service.answer("POST", "/v1/jobs", problem(422, "invalid_request"), status=422)
    assert run([*arguments, "--json"]) == ending
    said = capsys.readouterr()
    assert said.out == ""
    error = json.loads(said.err)["error"]
    assert error["code"] == code
    assert error["message"]


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


def test_a_picture_never_takes_the_name_of_another_file(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = {"contact-sheet": [b"a"], "Contact-Sheet": [b"b"], "p": [b"c", b"d"], "p-0": [b"e"]}
    lines = []
    for key, contents in pictures.items():
        job = f"job_{len(lines)}"
        images = [an_image_body(c, job=job, index=i) for i, c in enumerate(contents)]
        for image, content in zip(images, contents, strict=True):
            service.answer("GET", image["url"], content)
        lines.append({"key": key, "status": "succeeded", "error": None, "images": images})
    batch = {"id": "bat_a", "object": "batch", "status": "completed", "counts": {"succeeded": 4}}
    written = "\n".join(map(json.dumps, lines)).encode()
    service.answer("GET", "/v1/batches/bat_a", batch)
    service.answer("GET", "/v1/batches/bat_a/results.jsonl", written)
    service.answer("GET", "/v1/batches/bat_a/contact-sheet.png", b"the sheet")
    assert run(["status", "bat_a", "-o", str(tmp_path), "--url", service.url]) == 0
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len({name.casefold() for name in found}) == 7  # some disks do not tell case
    assert found.pop("contact-sheet.png") == b"the sheet"
    assert found.pop("results.jsonl") == written
    assert sorted(found.values()) == [b"a", b"b", b"c", b"d", b"e"]
    assert sorted(capsys.readouterr().out.split()) == sorted(str(tmp_path / n) for n in found)


@pytest.mark.parametrize(
    ("selected", "skipped", "dry_run", "sentence"),
    [
        (0, 1, False, "0 scenes are drawn again, 1 skipped"),
        (1, 0, False, "1 scene is drawn again, 0 skipped"),
        (2, 3, True, "2 scenes would be drawn again, 3 skipped"),
    ],
)
def test_reprocess_counts_what_is_drawn_apart_from_what_is_skipped(
    service: FakeService,
    selected: int,
    skipped: int,
    dry_run: bool,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = [{"key": f"p{i}", "reason": "unchanged"} for i in range(skipped)]
    answer = {"selected": selected, "skipped": left, "dry_run": dry_run, "jobs": []}
    service.answer("POST", "/v1/batches/bat_a/reprocess", answer)
    assert run(["reprocess", "bat_a", "--all", "--no-wait", "--url", service.url]) == 0
    assert capsys.readouterr().out.splitlines()[0] == sentence


def test_a_folder_that_takes_no_files_is_refused_before_anything_is_sent(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["draw", "Mia", "-o", "/dev/null/out", "--url", service.url]) == 2
    assert "nothing can be saved in /dev/null/out" in capsys.readouterr().err
    assert service.requests == []


def test_trying_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    require_writable(tmp_path / "a/b")
    (tmp_path / "there").mkdir()
    require_writable(tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("broken", ["while it is polled", "while it is saved"])
def test_when_a_job_cannot_be_seen_through_its_way_back_is_told(
    service: FakeService, tmp_path: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = a_job_body("succeeded", images=[an_image_body(b"png")])
    answer = None if broken == "while it is polled" else drawn
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", answer)
    service.answer("GET", "/v1/jobs/job_a/images/0", None)
    assert run(["draw", "Mia", "-o", str(tmp_path), "--url", service.url]) == 3
    back = f"illo status job_a --wait -o {tmp_path} --url {service.url}"
    assert back in capsys.readouterr().err


def test_when_a_batch_cannot_be_seen_through_its_way_back_is_told(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("GET", "/v1/batches/bat_a", None)
    assert run(["status", "bat_a", "--wait", "-o", str(tmp_path), "--url", service.url]) == 3
    assert f"illo status bat_a --wait -o {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["job", "batch"])
def test_what_a_drawing_waits_for_is_shown_from_the_first_look_on(
    service: FakeService, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = a_job_body("queued", queue={"reason": "the queue is paused"})
    quiet = {"id": "bat_a", "object": "batch", "status": "running", "counts": {"queued": 2}}
    ended = {**quiet, "status": "canceled", "counts": {"canceled": 2}}
    service.answer("GET", "/v1/jobs/job_a", waiting, a_job_body("canceled"))
    service.answer("GET", "/v1/batches/bat_a", quiet, ended)
    none, one = ({"data": found, "next_cursor": None} for found in ([], [waiting]))
    service.answer("GET", "/v1/jobs", none, one, none)
    id = "job_a" if kind == "job" else "bat_a"
    assert run(["status", id, "--wait", "--url", service.url]) == 1
    assert "the queue is paused" in capsys.readouterr().err
    if kind == "job":
        assert service.requests[0].query == ""  # it is answered at once
    else:
        assert service.requests[2].query == "batch=bat_a&status=queued&limit=1"


def test_no_jobs_are_said_to_be_none(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("GET", "/v1/jobs", {"data": [], "next_cursor": None})
    assert run(["jobs", "--url", service.url]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "no jobs\n")


def test_jobs_have_a_column_for_batches_if_one_is_of_a_batch(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, of_batch = (
        a_job_body("queued"),
        a_job_body("queued", batch={"id": "bat_a", "scene": "p1"}),
    )
    for jobs in ([alone], [alone, of_batch]):
        service.answer("GET", "/v1/jobs", {"data": jobs, "next_cursor": None})
    shown = []
    for _ in range(2):
        assert run(["jobs", "--url", service.url]) == 0
        shown.append(capsys.readouterr().out)
    assert "batch" not in shown[0]
    assert "bat_a" in shown[1]


ROW = {"job": "j" * 30, "status": "succeeded", "batch": "b" * 30, "scene": "p1-evening",
       "created": "2026-03-01T12:00:00", "prompt": "x" * 40}  # fmt: skip


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, list(ROW)),
        (94, list(ROW)),
        (93, [name for name in ROW if name != "prompt"]),
        (87, [name for name in ROW if name != "prompt"]),
        (86, ["job", "status", "batch", "scene"]),
        (80, ["job", "status", "batch", "scene"]),
        (20, ["job", "status", "batch", "scene"]),
    ],
)
def test_a_narrow_window_costs_columns_but_no_part_of_an_id(width: int, columns: list[str]) -> None:
    whole = ("job", "batch", "status")
    assert fitting([ROW], width, whole=whole, spare=("prompt", "created")) == columns


@pytest.mark.parametrize(
    ("found", "program", "called"),
    [
        ("/bin/illo", "/bin/illo", "illo"),
        ("/bin/illo", ".venv/bin/illo", ".venv/bin/illo"),
        (None, ".venv/bin/illo", ".venv/bin/illo"),
        (None, "-c", "illo"),
    ],
)
def test_commands_are_told_as_they_were_called(
    found: str | None, program: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: found)
    assert called_as(program) == called


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (HERE, "illo draw 'a kite'"),
        ("http://127.0.0.1:18731", "illo draw 'a kite' --url http://127.0.0.1:18731"),
        ("http://[::1]:8080", "illo draw 'a kite' --url 'http://[::1]:8080'"),
    ],
)
def test_a_told_command_says_where_the_service_is_unless_it_is_where_illo_looks(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["-c"])
    assert command_line("draw", "a kite", url=url) == told


def test_the_help_tells_the_defaults_of_the_service() -> None:
    fields = SceneFields.model_fields
    told = {name: text for name, text in NEW_SCENE.items() if name != "size"}
    assert told == {name: str(fields[name].default) for name in told}
    help_text = in_a_fresh_interpreter("from deploy.cli import main; main()", "draw", "-h").stdout
    assert "[default: 28]" in help_text


def test_one_step_is_one_step(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    shape = {**a_job_body("queued")["input"], "steps": 1}
    service.answer("GET", "/v1/jobs/job_a", a_job_body("queued", input=shape))
    assert run(["status", "job_a", "--url", service.url]) == 0
    assert "1 step," in capsys.readouterr().out


@pytest.mark.parametrize("size", ["512x384", "512X384", "512×384"])
def test_a_size_may_be_written_in_three_ways(
    service: FakeService, tmp_path: Path, size: str
) -> None:
    service.answer("POST", "/v1/jobs", a_job_body("queued"), status=202)
    service.answer("GET", "/v1/jobs/job_a", a_job_body("succeeded"))
    assert run(["draw", "Mia", "--size", size, "-o", str(tmp_path), "--url", service.url]) == 0
    body = service.bodies("POST", "/v1/jobs")[0]
    assert (body["width"], body["height"]) == (512, 384)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of whole weights."""
    folder = tmp_path_factory.mktemp("weights")
    make_tiny_weights(folder)
    return folder


def flip_a_byte(weights: Path, folder: Path) -> Path:
    """Copy weights, with one byte of a model changed that no header has."""
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    model = folder / "transformer/model.gguf"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return folder


def test_one_flipped_byte_makes_weights_unusable(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["weights", "inspect", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["every_byte_checked"]
    assert run(["weights", "inspect", str(flip_a_byte(weights, tmp_path))]) == 1
    assert "model.gguf: its sha256 is not the manifest's" in capsys.readouterr().err


def test_large_weights_are_not_read_to_the_last_byte(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("deploy.commands.weights.DIGESTED_BELOW", 8)
    assert run(["weights", "inspect", str(flip_a_byte(weights, tmp_path))]) == 0
    assert "not every byte was read" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["click", "deploy.commands.jobs", "urllib3"])
def test_a_ctrl_c_while_it_starts_shows_no_traceback(module: str) -> None:
    code = (
        "import os, signal, sys\n"
        "class AtImport:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, AtImport())\n"
        "from deploy.cli import main; main()"
    )
    ended = in_a_fresh_interpreter(code, "jobs", "--url", NOBODY)
    assert ended.returncode == 130
    assert ended.stderr.strip() == ""


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
    assert f"illo status job_a --wait -o out --url {service.url}" in said
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


@pytest.mark.parametrize("wish", ["pause", "resume"])
def test_who_may_turn_the_queue_need_not_be_allowed_to_read_it(
    service: FakeService, wish: str, capsys: pytest.CaptureFixture[str]
) -> None:
    control = {"object": "queue_control", "paused": wish == "pause", "reason": None}
    service.answer("POST", f"/v1/queue/{wish}", control)
    assert run(["queue", wish, "--url", service.url]) == 0
    assert capsys.readouterr().out == ("paused\n" if wish == "pause" else "open\n")


@pytest.mark.parametrize(
    ("mishaps", "fault"),
    [
        ("", "'' is not one of lose, double, delay"),
        ("lose", "'lose' is not one of"),
        ("lose=2", "'lose=2' is not one of"),
        ("lose=-0.1", "'lose=-0.1' is not one of"),
        ("lose=nan", "'lose=nan' is not one of"),
        ("burn=0.1", "'burn=0.1' is not one of"),
        ("lose=0.1,lose=0.2", "'lose=0.2' is not one of lose, double, delay, each once"),
        ("lose=0.1", "on --emulators only"),
    ],
)
def test_mishaps_that_cannot_be_are_refused(
    mishaps: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["up", "--mishaps", mishaps, "--data", str(tmp_path / "d")]) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--backend", "gcp"], "add --emulators"),
        (["--emulators"], "add --backend gcp"),
        (["--backend", "gcp", "--emulators", "--weights", "gs://abc/x"], "beside emulators"),
    ],
)
def test_emulators_and_the_backend_go_together(
    flags: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["up", *flags, "--data", str(tmp_path / "d")]) == 2
    assert fault in capsys.readouterr().err
