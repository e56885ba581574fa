"""`illo demo`: draw the example story and show what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.arguments import out_option
from deploy.console import Ending, command_line, print_json, say, speaks_json

if TYPE_CHECKING:
    from deploy.demo import DrawnScene

STORY = Path("examples/storm.yaml")

GO_ON = """
Go on with:
  {up:44}  # the service, until Ctrl-C
  {batch:44}  # in another terminal: this story again
  curl http://127.0.0.1:8080/v1/jobs -H 'Content-Type: application/json' \\
       -d '{{"prompt": "a round red creature in the snow", "width": 160, "height": 128}}'
  curl http://127.0.0.1:8080/v1/jobs        # how it stands"""


@click.command()
@click.argument("story", type=click.Path(path_type=Path), default=STORY)
@out_option(default="out", help="Where to save the pictures.")
@speaks_json
def demo(story: Path, out: Path, as_json: bool) -> int:
    """Draw a story of six scenes with an illo of its own, and show the pictures.

    Ends with 0 only if every scene was drawn.
    """
    from deploy.batch_file import read_batch_file
    from deploy.demo import draw_story

    _require_story(story)
    read_batch_file(story)  # before anything is started
    say(f"drawing {story} with {_weights()}")
    scenes = draw_story(story, out)
    if as_json:
        print_json([_row(scene) for scene in scenes])
    else:
        _tell(scenes, story, out)
    drawn = all(scene.files and scene.job["status"] == "succeeded" for scene in scenes)
    return Ending.DONE if scenes and drawn else Ending.JOB_FAILED


def _require_story(story: Path) -> None:
    if story.is_file():
        return
    if story == STORY:
        raise click.UsageError(
            f"{STORY} is not here: go to illo's repository, or name a batch file of your own"
        )
    raise click.BadParameter(f"there is no file {str(story)!r}", param_hint="STORY")


def _weights() -> str:
    from deploy.demo import demo_environment
    from deploy.ground import require_usable
    from shared.settings import Settings, process_environment

    settings = Settings.read(demo_environment(process_environment()))
    found = require_usable(settings)
    if settings.weights == "tiny":
        return f"the small artist that illo brings, {found.label}"
    return f"the weights in {settings.weights}: {found.label}"


def _tell(scenes: "list[DrawnScene]", story: Path, out: Path) -> None:
    from deploy.tables import print_table

    print_table([{**_row(scene), "files": ", ".join(map(str, scene.files))} for scene in scenes])
    click.echo(f"The story on one page: {out / 'contact-sheet.png'}")
    again = command_line("batch", str(story), "-o", str(out))
    click.echo(GO_ON.format(up=command_line("up"), batch=again))


def _row(scene: "DrawnScene") -> dict[str, Any]:
    job = scene.job
    return {
        "scene": scene.key,
        "status": job["status"] if job else None,
        "attempt": job["attempt"] if job else None,
        "seconds": round(job["metrics"]["gpu_seconds"], 2) if job else None,
        "files": [str(file) for file in scene.files],
    }
