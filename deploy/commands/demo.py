"""`illo demo`: draw the example story and show what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.console import Ending, print_json, say, speaks_json

if TYPE_CHECKING:
    from deploy.demo import DrawnScene

STORY = Path("examples/storm.yaml")

GO_ON = """
Go on with:
  illo up                                   # the service, until Ctrl-C
  illo batch examples/storm.yaml -o out/    # in another terminal: this story again
  curl http://127.0.0.1:8080/v1/jobs -H 'Content-Type: application/json' \\
       -d '{"prompt": "Mia flies a kite", "width": 512, "height": 384}'
  curl http://127.0.0.1:8080/v1/jobs        # how it stands"""


@click.command()
@click.argument(
    "story", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=STORY
)
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), default="out",
              show_default=True, help="Where to save the pictures.")  # fmt: skip
@speaks_json
def demo(story: Path, out: Path, as_json: bool) -> int:
    """Draw a story of six scenes with an illo of its own, and show the pictures.

    Ends with 0 only if every scene was drawn.
    """
    from deploy.demo import draw_story

    say(f"drawing {story} with tiny weights: they know nothing, so the pictures are abstract")
    scenes = draw_story(story, out)
    if as_json:
        print_json([_row(scene) for scene in scenes])
    else:
        _tell(scenes, out)
    drawn = all(scene.files and scene.job["status"] == "succeeded" for scene in scenes)
    return Ending.DONE if scenes and drawn else Ending.JOB_FAILED


def _tell(scenes: "list[DrawnScene]", out: Path) -> None:
    from deploy.tables import print_table

    rows = [_row(scene) for scene in scenes]
    print_table(
        ("scene", "status", "attempt", "seconds", "file"),
        [(*list(row.values())[:-1], ", ".join(row["files"])) for row in rows],
    )
    click.echo(f"The story on one page: {out / 'contact-sheet.png'}")
    click.echo(GO_ON)


def _row(scene: "DrawnScene") -> dict[str, Any]:
    job = scene.job
    return {
        "scene": scene.key,
        "status": job["status"] if job else None,
        "attempt": job["attempt"] if job else None,
        "seconds": round(job["metrics"]["gpu_seconds"], 2) if job else None,
        "files": [str(file) for file in scene.files],
    }
