"""Draw Mia, the hero of the example story: python examples/make_mia.py writes examples/mia.png.

She is of a kind that the small artist was never shown: how she looks, it sees in this picture.
"""

from pathlib import Path
from random import Random

from worker.pipeline.artist.characters import Character, Eyes, Hat, Shape
from worker.pipeline.artist.drawings import SIZES, draw_plain

MIA = Character(hue=320, shape=Shape.SQUARE, hat=Hat.CAP, eyes=Eyes.TWO)


def main() -> None:
    """Write the picture beside this script."""
    mia = draw_plain(MIA, SIZES[0], Random("Mia"))  # noqa: S311
    mia.save(Path(__file__).with_name("mia.png"), optimize=True)


if __name__ == "__main__":
    main()
