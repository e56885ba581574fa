"""Say what a scene of a batch wants after an edit or the overrides of a reprocess. Pure."""

import hashlib
from dataclasses import replace

from api.batch_requests import SceneOverrides, SceneSource
from api.batch_scenes import Source, Surroundings, defaults_of, read_scene
from shared.batches import Batch, BatchScene, Reseed, revise

ABOUT_THE_PICTURE = frozenset(
    {"prompt", "style", "references", "width", "height", "steps", "guidance", "count", "format"}
)


def edited(scene: BatchScene, batch: Batch, said: SceneSource, around: Surroundings) -> BatchScene:
    """Say something else of a scene; it keeps its seed unless it is given one.

    Raises SceneRefused.
    """
    source = said.model_dump(mode="json", exclude_unset=True)
    wanted = read_scene(source, defaults_of(batch.defaults), around, seed=scene.scene.seed)
    return revise(scene, wanted, source)


def overridden(
    scene: BatchScene,
    batch: Batch,
    overrides: Source,
    around: Surroundings,
    *,
    reseed: Reseed,
    dice: str,
) -> BatchScene:
    """Change what a scene wants by overrides, a new seed and the weights served now.

    The same `dice` give the same new seeds, so that a repeated request does the same.
    Raises SceneRefused.
    """
    own = overrides.get("seed")
    seed = own if isinstance(own, int) else reseeded(scene, reseed, dice=dice)
    source = {**scene.source, **overrides}
    if ABOUT_THE_PICTURE.isdisjoint(overrides):
        # not read anew: an upload that it is pinned to may have been deleted since
        return revise(scene, replace(scene.scene, weights=around.weights, seed=seed), source)
    # the seed it was submitted with has been overtaken by those of later takes
    unseeded = {name: value for name, value in source.items() if name != "seed"}
    wanted = read_scene(unseeded, defaults_of(batch.defaults), around, seed=seed)
    return revise(scene, wanted, source)


def overrides_of(overrides: SceneOverrides) -> Source:
    """Say which fields are overridden; a seed of null is none."""
    said = overrides.model_dump(mode="json", exclude_unset=True)
    return {name: value for name, value in said.items() if (name, value) != ("seed", None)}


def reseeded(scene: BatchScene, reseed: Reseed, *, dice: str) -> int:
    """Choose the seed of a scene's next take."""
    if reseed is Reseed.KEEP:
        return scene.scene.seed
    if reseed is Reseed.INCREMENT:
        return (scene.scene.seed + 1) % 2**32
    return int.from_bytes(hashlib.sha256(f"{dice}\0{scene.key}".encode()).digest()[:4])
