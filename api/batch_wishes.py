"""Say what a scene of a batch wants after an edit or the overrides of a reprocess. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from api.batch_requests import SceneOverrides, SceneSource
from api.batch_scenes import Source, Surroundings, defaults_of, much_metadata, read_scene
from api.scene_input import SceneRefused, pin
from shared.assets import Asset
from shared.batches import Batch, BatchScene, Reseed, revise
from shared.scenes import Reference

ABOUT_THE_PICTURE = frozenset(
    {"prompt", "style", "references", "width", "height", "steps", "guidance", "count", "format"}
)


def edited(scene: BatchScene, batch: Batch, said: SceneSource, around: Surroundings) -> BatchScene:
    """Say something else of a scene; it keeps its seed unless it is given one.

    Raises SceneRefused.
    """
    source = said.model_dump(mode="json", exclude_unset=True)
    _refuse_much_metadata(source, batch)
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
    _refuse_much_metadata(source, batch)
    if ABOUT_THE_PICTURE.isdisjoint(overrides):
        # not read anew: an upload that it is pinned to may have been deleted since
        pinned = _pinned_anew(scene.scene.references, around.assets)
        wanted = replace(scene.scene, weights=around.weights, seed=seed, references=pinned)
        return revise(scene, wanted, source)
    # the seed it was submitted with has been overtaken by those of later takes
    unseeded = {name: value for name, value in source.items() if name != "seed"}
    wanted = read_scene(unseeded, defaults_of(batch.defaults), around, seed=seed)
    return revise(scene, wanted, source)


def overrides_of(overrides: SceneOverrides) -> Source:
    """Say which fields are overridden; a seed of null is none."""
    said = overrides.model_dump(mode="json", exclude_unset=True)
    return {name: value for name, value in said.items() if (name, value) != ("seed", None)}


def _refuse_much_metadata(source: Source, batch: Batch) -> None:
    said = {**defaults_of(batch.defaults), **source}
    if faults := much_metadata(said, batch.metadata):
        raise SceneRefused(faults)


def _pinned_anew(
    references: Sequence[Reference], assets: Mapping[str, Asset]
) -> tuple[Reference, ...]:
    """Name the bytes that each asset has now: it may have been uploaded again since."""
    known = [(reference, assets.get(reference.asset)) for reference in references]
    return tuple(pin(asset) if asset else reference for reference, asset in known)


def reseeded(scene: BatchScene, reseed: Reseed, *, dice: str) -> int:
    """Choose the seed of a scene's next take."""
    if reseed is Reseed.KEEP:
        return scene.scene.seed
    if reseed is Reseed.INCREMENT:
        return (scene.scene.seed + 1) % 2**32
    return int.from_bytes(hashlib.sha256(f"{dice}\0{scene.key}".encode()).digest()[:4])
