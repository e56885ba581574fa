"""Have a batch drawn and its results saved: what `illo batch`, `reprocess` and the demo share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.batch_file import read_batch_file, with_uploads
from deploy.client import Client
from deploy.following import follow_batch
from deploy.progress import Display
from deploy.results import save, save_images

SHEET, RESULTS = "contact-sheet.png", "results.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedScene:
    """A scene as it stands, and the files of the take that stands for it."""

    result: Any  # its line of results.jsonl
    files: tuple[Path, ...]


def submit_file(client: Client, file: Path) -> Any:
    """Upload a batch file's references and submit it; return the batch."""

    def upload(path: Path) -> str:
        return str(client.upload(path)["id"])

    body = with_uploads(read_batch_file(file), file.parent, upload)
    return client.post("/v1/batches", body).json()


def wait_for_batch(client: Client, id: str) -> Any:
    """Show a batch's progress until all of its scenes have ended; return it."""
    with Display() as display:
        return follow_batch(client, id, display.show)


def save_batch(client: Client, id: str, out: Path) -> list[SavedScene]:
    """Save a batch's images, its contact sheet and results.jsonl; return what every scene has."""
    lines = client.get(f"/v1/batches/{id}/results.jsonl").body
    taken, scenes = {SHEET, RESULTS}, []
    for result in map(json.loads, lines.splitlines()):
        files = save_images(client, result["images"], out, result["key"], taken=taken)
        taken.update(file.name for file in files)
        scenes.append(SavedScene(result=result, files=tuple(files)))
    save(out / RESULTS, lines)
    if any(scene.files for scene in scenes):
        save(out / SHEET, client.get(f"/v1/batches/{id}/contact-sheet.png").body)
    return scenes
