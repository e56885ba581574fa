"""Batch files: read as they are written, with each picture uploaded once."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.batch_file import read_batch_file, with_uploads
from shared.errors import BadBatchFile

ROOT = Path(__file__).parents[2]
PICTURE = "ast_" + "0" * 64


def written(folder: Path, content: str) -> Path:
    file = folder / "story.yaml"
    file.write_text(content)
    return file


def a_body(**references: list[str]) -> dict[str, Any]:
    """A body with references by place: `defaults`, or the key of a scene."""
    scenes = [{"key": k, "references": v} for k, v in references.items() if k != "defaults"]
    return {"defaults": {"references": references.get("defaults", [])}, "scenes": scenes}


def test_yaml_and_json_are_the_same(tmp_path: Path) -> None:
    body = {"title": "Mia", "scenes": [{"key": "p1", "prompt": "x", "steps": 4}]}
    yaml = "title: Mia\nscenes:\n- {key: p1, prompt: x, steps: 4}\n"
    assert read_batch_file(written(tmp_path, yaml)) == body
    assert read_batch_file(written(tmp_path, json.dumps(body))) == body


@pytest.mark.parametrize(
    "content",
    [
        "scenes: &a [*a]",
        "scenes: []\ntitle: &a {b: *a}",
        "scenes: []\n2026-03-01: &a {? {b: c} : d}",
        "scenes: " + "[" * 5000 + "]" * 5000,
    ],
    ids=["circle", "circle of mappings", "a mapping as a key", "deep"],
)
def test_what_json_cannot_say_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadBatchFile, match=r"story\.yaml"):
        read_batch_file(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("scenes: []\nscenes: []", 2),
        ("scenes:\n- key: a\n  prompt: x\n  'key': b", 4),
        ('{"scenes": [],\n "title": "a",\n "title": "b"}', 3),
    ],
)
def test_a_key_that_is_written_twice_is_refused_with_its_line(
    tmp_path: Path, content: str, line: int
) -> None:
    with pytest.raises(BadBatchFile, match=rf"story\.yaml: line {line}: '\w+' is written twice"):
        read_batch_file(written(tmp_path, content))


def test_a_merged_mapping_may_say_some_of_it_anew(tmp_path: Path) -> None:
    content = (
        "scenes:\n- &a {key: a, prompt: x}\n- &b {<<: *a, key: b}\n- {<<: *b, key: c, steps: 4}\n"
    )
    scenes = read_batch_file(written(tmp_path, content))["scenes"]
    assert [(scene["key"], scene["prompt"]) for scene in scenes] == [(k, "x") for k in "abc"]


@pytest.mark.parametrize("moment", ["2026-03-01", "2026-13-45", "2026-03-01 12:00:00Z"])
def test_what_looks_like_a_moment_stays_as_it_is_written(tmp_path: Path, moment: str) -> None:
    assert read_batch_file(written(tmp_path, f"title: {moment}\nscenes: []"))["title"] == moment


@pytest.mark.parametrize("content", ["[", "1", "[]", "{}", "scenes: 1", "a: !!python/none", "\x00"])
def test_what_is_no_batch_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadBatchFile, match=r"story\.yaml"):
        read_batch_file(written(tmp_path, content))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "story.yaml"
    file.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(BadBatchFile):
        read_batch_file(file)


def test_each_picture_is_uploaded_once_and_replaced_everywhere(tmp_path: Path) -> None:
    for name in ("mia.png", "hat.png"):
        (tmp_path / name).touch()
    uploaded = []

    def upload(path: Path) -> str:
        uploaded.append(path)
        return f"ast_{path.stem}"

    body = a_body(defaults=["mia.png"], p1=["hat.png", "mia.png"], p2=[PICTURE])
    done = with_uploads(body, tmp_path, upload)
    assert sorted(uploaded) == [tmp_path / "hat.png", tmp_path / "mia.png"]
    assert done == a_body(defaults=["ast_mia"], p1=["ast_hat", "ast_mia"], p2=[PICTURE])
    assert body["defaults"]["references"] == ["mia.png"]  # the given body stays as it was


def test_nothing_is_uploaded_if_a_picture_is_missing(tmp_path: Path) -> None:
    (tmp_path / "mia.png").touch()
    with pytest.raises(BadBatchFile, match=r"gone\.png"):
        with_uploads(a_body(defaults=["mia.png"], p1=["gone.png"]), tmp_path, pytest.fail)


@pytest.mark.parametrize("strange", ["mia.png", 7, [7], None, {"a": 1}])
def test_references_of_another_kind_are_left_for_the_service_to_refuse(
    tmp_path: Path, strange: object
) -> None:
    body = {"scenes": [{"key": "p1", "references": strange}, "no scene at all"]}
    assert with_uploads(body, tmp_path, pytest.fail) == body


def test_the_example_story_has_six_scenes_and_one_picture() -> None:
    story = ROOT / "examples/storm.yaml"
    body = read_batch_file(story)
    assert len(body["scenes"]) == 6
    assert body["defaults"]["references"] == ["mia.png"]
    assert (story.parent / "mia.png").is_file()
