"""Draw the losses of a training as an SVG: one panel for each phase, what is unseen in the last."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN = 720, 220, 48  # of a panel, and what its numbers need
_TITLES = {"vae": "VAE", "flow": "transformer and text encoders"}
_PANELS: Mapping[str, tuple[str, ...]] = {
    "vae": ("vae",),
    "flow": ("flow", "unseen with_reference", "unseen with_anothers"),
}
_NAMES = {
    "vae": "loss",
    "flow": "loss, mean of 100 steps",
    "unseen with_reference": "unseen characters",
    "unseen with_anothers": "unseen, with another's reference",
}
_COLOURS = ("#3558d6", "#1b7f4d", "#d64b3c")
Points = Sequence[tuple[float, float]]


def curve_of(losses: Path) -> str:
    """Read `losses.jsonl` of a training and draw them; a line that was cut off is left out."""
    lines = _lines(losses)
    panels = [
        (_TITLES[phase], {_NAMES[name]: lines[name] for name in names if lines[name]})
        for phase, names in _PANELS.items()
        if lines[phase]
    ]
    drawn = [_panel(at * HEIGHT, title, curves) for at, (title, curves) in enumerate(panels)]
    size = f'width="{WIDTH}" height="{HEIGHT * len(panels)}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    )
    body = "\n".join(["<rect width='100%' height='100%' fill='white'/>", *drawn])
    return f"{head}\n{body}\n</svg>\n"


def _lines(losses: Path) -> dict[str, list[tuple[float, float]]]:
    found = defaultdict(list)
    for line in losses.read_text(encoding="utf-8").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        phase, minutes = told["phase"], told["seconds"] / 60
        for name in ("loss", "with_reference", "with_anothers"):
            if name in told:
                found[phase if name == "loss" else f"{phase} {name}"].append((minutes, told[name]))
    return found


def _panel(top: float, title: str, curves: Mapping[str, Points]) -> str:
    longest = max(x for points in curves.values() for x, _ in points) or 1.0
    # the first steps of nothing learned would flatten all that follows
    tallest = 1.15 * max(y for points in curves.values() for _, y in points[len(points) // 10 :])

    def at(x: float, y: float) -> tuple[float, float]:
        right = MARGIN + x / longest * (WIDTH - 2 * MARGIN)
        return right, top + HEIGHT - MARGIN - min(1.0, y / tallest) * (HEIGHT - 2 * MARGIN)

    parts = [_text((MARGIN, top + 24), f"{title}: loss over minutes", "start", "black")]
    parts += [_rule(at(0, part * tallest), at(longest, part * tallest)) for part in (0, 0.5, 1)]
    for part in (0, 0.5, 1):
        x, y = at(0, part * tallest)
        parts.append(_text((x - 6, y + 4), f"{part * tallest:.3g}", "end", "black"))
        x, y = at(part * longest, 0)
        parts.append(_text((x, y + 18), f"{part * longest:.0f}", "middle", "black"))
    for number, (name, points) in enumerate(curves.items()):
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        colour = _COLOURS[number]
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{drawn}"/>')
        parts.append(_text((WIDTH - MARGIN, top + 40 + 16 * number), name, "end", colour))
    return "\n".join(parts)


def _rule(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (x2, y2) = start, end
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(place: tuple[float, float], said: str, anchor: str, colour: str) -> str:
    x, y = place
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(said)}</text>"
    )
