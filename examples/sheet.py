"""Draw six characters in eight settings with `illo batch`, and lay all out on one page.

While `illo up` runs: python examples/sheet.py FOLDER writes FOLDER/small-artist.png. The characters
are of kinds that the small artist was never shown.
"""

import subprocess
import sys
from pathlib import Path
from random import Random

import yaml
from PIL import Image

from worker.pipeline.artist.characters import Character, draw_character
from worker.pipeline.artist.drawings import SIZES, draw_plain

CHARACTERS, STEPS, GAP = 6, 16, 6
SCENES = {
    "meadow": "it plays in a sunny meadow",
    "forest": "it walks in the forest",
    "sea": "it is swimming in the sea",
    "desert": "it rests beside a cactus",
    "rain": "it waits in the pouring rain",
    "snow": "it stands in the snow",
    "room": "it sits at home on the rug",
    "night": "it smiles in the forest at night",
}
Row = list[Image.Image]


def main(folder: Path) -> None:
    """Draw everything, and write the page."""
    chance = Random(7)  # noqa: S311
    rows = []
    for number in range(CHARACTERS):
        character = draw_character(chance, held_out=True)
        rows.append(drawn(folder / f"character-{number + 1}", character, seed=number))
    page(rows).save(folder / "small-artist.png", optimize=True)


def drawn(folder: Path, character: Character, *, seed: int) -> Row:
    """Have illo draw one character in all settings; its reference comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = draw_plain(character, SIZES[0], Random(seed))  # noqa: S311
    reference.save(folder / "reference.png")
    width, height = SIZES[0]
    story = {
        "title": f"{character.hue_name}, {character.shape}",
        "defaults": {
            "references": ["reference.png"], "width": width, "height": height, "steps": STEPS,
            "seed": {"policy": "per_scene", "base": 100 * seed},
        },
        "scenes": [{"key": key, "prompt": prompt} for key, prompt in SCENES.items()],
    }  # fmt: skip
    (folder / "story.yaml").write_text(yaml.safe_dump(story, sort_keys=False))
    illo = Path(sys.executable).with_name("illo")
    words = [illo, "batch", folder / "story.yaml", "-o", folder / "out"]
    subprocess.run(words, check=True)  # noqa: S603
    return [reference, *(Image.open(folder / "out" / f"{key}.png") for key in SCENES)]


def page(rows: list[Row]) -> Image.Image:
    """Lay out pictures of one size in rows."""
    width, height = (side + GAP for side in SIZES[0])
    made = Image.new("RGB", (width * len(rows[0]) - GAP, height * len(rows) - GAP), "white")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            made.paste(picture, (across * width, down * height))
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER, while illo up runs")
    main(Path(sys.argv[1]))
