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
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadBatchFile(f"{file}: cannot be read: {error}") from None
    try:
        body = yaml.load(text, _Written)  # noqa: S506 - a safe loader; JSON is YAML, too
    except BadBatchFile as error:
        raise BadBatchFile(f"{file}: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise BadBatchFile(f"{file}: neither YAML nor JSON: {error}") from None
    if not isinstance(body, dict) or not isinstance(body.get("scenes"), list):
        raise BadBatchFile(f"{file}: must have `scenes`, a list; examples/storm.yaml shows how")
    return _as_json(file, body)


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


class _Written(yaml.SafeLoader):
    """Reads YAML as JSON would be: no dates, and no key twice, of which one would win unseen."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, not where values are made: merging rewrites a mapping before that.
        mapping: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise BadBatchFile(f"line {line}: {key.value!r} is written twice here")
                seen.add((key.tag, key.value))
        return mapping


def _as_written(loader: _Written, node: yaml.Node) -> str:
    return str(node.value)


_Written.add_constructor("tag:yaml.org,2002:timestamp", _as_written)


def _as_json(file: Path, body: Any) -> dict[str, Any]:
    try:
        written: dict[str, Any] = json.loads(json.dumps(body, default=str))
    except (TypeError, ValueError, RecursionError):
        # YAML's aliases can lead in a circle, and its keys can be anything.
        raise BadBatchFile(f"{file}: says what JSON cannot, like a list within itself") from None
    return written


def _references(place: Any) -> list[str]:
    # Whatever else is written there is for the service to refuse.
    found = place.get("references") if isinstance(place, dict) else None
    return found if isinstance(found, list) and all(isinstance(n, str) for n in found) else []
