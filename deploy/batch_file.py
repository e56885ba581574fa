"""Read a batch file: the body of POST /v1/batches in YAML or JSON, with paths as references."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from shared.errors import BadBatchFile

Upload = Callable[[Path], str]


def read_batch_file(file: Path) -> dict[str, Any]:
    """Read the body as it is written; raises BadBatchFile."""
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML, too
    except (OSError, UnicodeDecodeError) as error:
        raise BadBatchFile(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise BadBatchFile(f"{file}: neither YAML nor JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("scenes"), list):
        raise BadBatchFile(f"{file}: must have `scenes`, a list; examples/storm.yaml shows how")
    written: dict[str, Any] = json.loads(json.dumps(body, default=str))  # YAML has dates
    return written


def with_uploads(body: dict[str, Any], folder: Path, upload: Upload) -> dict[str, Any]:
    """Replace each path among the references by its asset, uploading every file once.

    Paths are relative to the folder. Raises BadBatchFile before anything is uploaded if a file is
    missing.
    """
    places = [body.get("defaults"), *body["scenes"]]
    named = {name for place in places for name in _references(place)}
    files = {name: folder / name for name in sorted(named) if not is_asset(name)}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise BadBatchFile("no such reference: " + ", ".join(missing))
    assets = {name: upload(path) for name, path in files.items()}

    def replaced(place: Any) -> Any:
        found = _references(place)
        return {**place, "references": [assets.get(n, n) for n in found]} if found else place

    defaults = {"defaults": replaced(body["defaults"])} if "defaults" in body else {}
    return {**body, **defaults, "scenes": [replaced(scene) for scene in body["scenes"]]}


def is_asset(name: str) -> bool:
    """Whether a reference names an uploaded image rather than a file."""
    return name.startswith("ast_") and not Path(name).suffix


def _references(place: Any) -> list[str]:
    # Whatever else is written there is for the service to refuse.
    found = place.get("references") if isinstance(place, dict) else None
    return found if isinstance(found, list) and all(isinstance(n, str) for n in found) else []
