"""Scenes as documents: the whole scene as one text, and the fields that queries need beside it."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from shared.batches import BatchScene
from shared.documents import from_json, to_json
from shared.errors import SceneNotFound
from shared.gcp.firestore import Fields
from shared.gcp.shapes import SCENES
from shared.gcp.transactions import Transaction


def name_of(batch: str, key: str) -> str:
    """Name the document of a scene, whose key may hold any character."""
    return hashlib.sha256(json.dumps([batch, key]).encode()).hexdigest()


def scene_of(fields: Fields) -> BatchScene:
    """Read a scene from its document."""
    return from_json(BatchScene, fields["document"])


def read_scenes(transaction: Transaction, batch: str, keys: Sequence[str]) -> Mapping[str, Fields]:
    """Read the documents of scenes by key; raises SceneNotFound."""
    found = transaction.get_all(SCENES, [name_of(batch, key) for key in keys])
    for key in keys:
        if name_of(batch, key) not in found:
            raise not_found(batch, key)
    return {key: found[name_of(batch, key)] for key in keys}


def write_scene(transaction: Transaction, scene: BatchScene) -> None:
    """Write a scene that this transaction has read."""
    transaction.write(SCENES, name_of(scene.batch, scene.key), fields_of(scene))


def not_found(batch: str, key: str) -> SceneNotFound:
    """Say that a batch has no such scene."""
    return SceneNotFound(f"{batch} has no scene {key!r}")


def fields_of(scene: BatchScene) -> Fields:
    """Write a scene as a document."""
    return {
        "document": to_json(scene),
        "batch": scene.batch,
        "key": scene.key,
        "position": scene.position,
    }
