"""Read the scenes of a batch against its defaults. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from api.batch_faults import refused
from api.batch_requests import BatchRequest, SceneEntry
from api.problems import Fault, pointer
from api.requests import SceneFields
from api.scene_input import SceneRefused, resolve_scene
from shared.assets import Asset
from shared.batches import BatchScene, SeedPolicy, scene_seed
from shared.scenes import Scene, Weights

LONGEST_PROMPT = 4000
SIDES = frozenset({"width", "height"})
MOST_METADATA = 16  # that a job has

Source = Mapping[str, object]  # what was said of a scene, as JSON, without what was left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a scene is read in: the assets that there are, the weights, usual and largest area."""

    assets: Mapping[str, Asset]
    weights: Weights
    usual_pixels: int
    max_pixels: int


def plan_scenes(
    request: BatchRequest, around: Surroundings, *, batch: str, base: int
) -> list[BatchScene]:
    """Fix every scene of a new batch, or raise a Refusal that names every fault by pointer."""
    defaults = source_of_defaults(request)
    faults = _twice(request.scenes)
    planned = []
    for position, entry in enumerate(request.scenes):
        source = entry.model_dump(mode="json", exclude_unset=True, exclude={"key"})
        seed = scene_seed(request.defaults.seed.policy, base, key=entry.key, position=position)
        much = much_metadata({**defaults, **source}, request.metadata)
        faults += [_placed(fault, source, position) for fault in much]
        try:
            scene = read_scene(source, defaults, around, seed=seed)
        except SceneRefused as unfit:
            faults += [_placed(fault, source, position) for fault in unfit.faults]
            continue
        planned.append(
            BatchScene(batch=batch, key=entry.key, position=position, scene=scene, source=source)
        )
    if faults:
        raise refused(faults, under="scenes")
    return planned


def read_scene(source: Source, defaults: Source, around: Surroundings, *, seed: int) -> Scene:
    """Fix one scene; `seed` is used if it brings none. Raises SceneRefused with every fault."""
    said: dict[str, Any] = {**defaults, **source}
    prompt, style = said["prompt"], said.get("style")
    styled = f"{prompt}. {style}" if style else prompt
    if len(styled) > LONGEST_PROMPT:
        detail = f"{len(styled):,} characters with the style; at most {LONGEST_PROMPT:,}"
        raise SceneRefused([Fault(pointer=pointer("prompt"), detail=detail)])
    known = {name: said[name] for name in SceneFields.model_fields if name in said}
    return resolve_scene(
        SceneFields.model_validate(known | {"prompt": styled}),
        references=around.assets,
        weights=around.weights,
        usual_pixels=around.usual_pixels,
        max_pixels=around.max_pixels,
        seed=seed,
    )


def much_metadata(said: Source, metadata: Mapping[str, str]) -> list[Fault]:
    """List the fault if a scene's metadata and its batch's are more than a job may have.

    `said` is what the scene says, the defaults with it.
    """
    own = cast(Mapping[str, str], said.get("metadata", {}))
    together = len({**metadata, **own})
    if together <= MOST_METADATA:
        return []
    detail = f"{together} entries together with the batch's metadata; at most {MOST_METADATA}"
    return [Fault(pointer=pointer("metadata"), detail=detail)]


def source_of_defaults(request: BatchRequest) -> Source:
    """Say what the defaults give to every scene: all but the seeds, which are each scene's own."""
    return request.defaults.model_dump(mode="json", exclude_unset=True, exclude={"seed"})


def stored_defaults(request: BatchRequest, *, base: int) -> Source:
    """Say what is kept of the defaults, the seeds' base with them."""
    policy = SeedPolicy(request.defaults.seed.policy)
    return {**source_of_defaults(request), "seed": {"policy": policy.value, "base": base}}


def defaults_of(stored: Source) -> Source:
    """Read what is kept of the defaults as `source_of_defaults` gave it."""
    return {name: value for name, value in stored.items() if name != "seed"}


def _twice(scenes: Sequence[SceneEntry]) -> list[Fault]:
    first: dict[str, int] = {}
    faults = []
    for position, entry in enumerate(scenes):
        if first.setdefault(entry.key, position) != position:
            detail = f"scene {first[entry.key]} has this key already"
            faults.append(Fault(pointer=pointer("scenes", position, "key"), detail=detail))
    return faults


def _placed(fault: Fault, source: Source, position: int) -> Fault:
    """Point at the scene, or at the defaults where the scene has nothing to do with the fault."""
    field = fault.pointer.split("/")[1]
    concerned = SIDES if field in SIDES else {field}
    inherited = concerned.isdisjoint(source)
    where = pointer("defaults") if inherited else pointer("scenes", position)
    return Fault(pointer=where + fault.pointer, detail=fault.detail)
