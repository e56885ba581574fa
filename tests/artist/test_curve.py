"""The curve of a training shows every phase that there was, to scale."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from worker.pipeline.artist.curve import HEIGHT, MARGIN, curve_of

SVG = "{http://www.w3.org/2000/svg}"
Line = dict[str, object]
VAE: list[Line] = [
    {"phase": "vae", "step": n, "seconds": 60.0 * n, "loss": 1 / n} for n in range(1, 21)
]
FLOW: list[Line] = [
    {"phase": "flow", "step": n, "seconds": 60.0 * n, "loss": 2 / n} for n in range(1, 41)
]
UNSEEN: list[Line] = [
    {"phase": "unseen", "step": n, "seconds": 60.0 * n, "with_reference": 0.5, "with_anothers": 0.9}
    for n in (10, 20)
]


def drawn(tmp_path: Path, *lines: Line, end: str = "") -> ElementTree.Element:
    (tmp_path / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return ElementTree.fromstring(curve_of(tmp_path / "losses.jsonl"))


def curves(picture: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [
        [_numbers(point) for point in line.get("points", "").split()]
        for line in picture.iter(f"{SVG}polyline")
    ]


def _numbers(point: str) -> tuple[float, float]:
    x, _, y = point.partition(",")
    return float(x), float(y)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(VAE, [20]), (VAE + FLOW, [20, 40]), (VAE + FLOW + UNSEEN, [20, 40, 2, 2]), (VAE[:1], [1])],
)
def test_every_phase_has_a_curve_of_all_its_points(
    tmp_path: Path, lines: list[Line], expected: list[int]
) -> None:
    picture = drawn(tmp_path, *lines)
    assert [len(curve) for curve in curves(picture)] == expected
    panels = 1 + any(line["phase"] == "flow" for line in lines)
    assert picture.get("height") == str(HEIGHT * panels)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    [curve] = curves(drawn(tmp_path, *VAE, end='{"phase": "vae", "st'))
    assert len(curve) == len(VAE)


def test_less_is_lower_and_later_is_further_right(tmp_path: Path) -> None:
    loss, _, with_reference, with_anothers = curves(drawn(tmp_path, *VAE, *FLOW, *UNSEEN))
    assert loss == sorted(loss)
    assert [y for _, y in loss[3:]] == sorted(y for _, y in loss[3:])
    assert with_reference[0][0] == with_anothers[0][0]
    assert with_reference[0][1] > with_anothers[0][1]  # an SVG counts from the top


def test_nothing_leaves_its_panel(tmp_path: Path) -> None:
    for number, curve in enumerate(curves(drawn(tmp_path, *VAE, *FLOW))):
        top, bottom = number * HEIGHT + MARGIN, (number + 1) * HEIGHT - MARGIN
        assert all(top - 1 <= y <= bottom + 1 for _, y in curve)
