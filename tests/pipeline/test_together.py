"""Several drawings as one device batch: near what each alone would be, and apart in their fates."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load as read_latents

from shared.errors import ReferenceDamaged
from shared.scenes import Reference, Scene
from tests.pipeline.drawings import (
    a_drawing,
    a_reference,
    a_scene,
    difference,
    draw,
    drawn,
    farthest,
    pixels,
    saves_of,
    stopping_at,
)
from worker.drawing import Drawn
from worker.pipeline.kontext import Kontext

pytestmark = pytest.mark.slow

FOX = a_scene(prompt="A fox", steps=3, seed=1, guidance=1.5, width=80)
MIA = a_scene(prompt="Mia hides", steps=5, seed=2, guidance=4.0, width=80)
OWL = a_scene(prompt="An owl, awake", steps=4, seed=3, width=80)
TALL = a_scene(prompt="A tower", steps=2, height=96)
# What a batch may differ by, of latents of about 4; docs/weights.md says what was
# measured. The numbers of a picture go from 0 to 255.
LATENTS = {torch.float32: 1e-4, torch.bfloat16: 0.25}
MOST = {torch.float32: 1, torch.bfloat16: 40}
MEAN = {torch.float32: 0.01, torch.bfloat16: 3.0}


BOTH = pytest.mark.parametrize(
    "several", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"], indirect=True
)


@pytest.fixture(scope="module")
def several(request: pytest.FixtureRequest, load: Callable[..., Kontext]) -> Kontext:
    """A pipeline that draws three images at once."""
    return load(together=3, dtype=getattr(request, "param", torch.float32))


@pytest.fixture
def batches(several: Kontext, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward of the transformer took."""
    sizes: list[int] = []
    transformer = several._pipeline.transformer
    forward = transformer.forward

    def counting(**inputs: Any) -> Any:
        sizes.append(len(inputs["hidden_states"]))
        return forward(**inputs)

    monkeypatch.setattr(transformer, "forward", counting)
    return sizes


ALONE: dict[tuple[torch.dtype, Scene], Drawn] = {}


def alone(kontext: Kontext, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Draw an image at a time, with the same weights in the same precision; done once."""
    key = kontext._pipeline.transformer.dtype, scene
    if key not in ALONE:
        with monkeypatch.context() as patch:
            patch.setattr(kontext, "together", 1)
            ALONE[key] = draw(kontext, scene)
    return ALONE[key]


def near(kontext: Kontext, found: Drawn | Exception, expected: Drawn) -> bool:
    """Compare pictures within what is stated."""
    dtype = kontext._pipeline.transformer.dtype
    pairs = list(zip(drawn(found).images, expected.images, strict=True))
    most = max(farthest(one, other) for one, other in pairs)
    mean = max(difference(one, other) for one, other in pairs)
    print(f"{dtype}: mean {mean:.3f}, most {most}")
    return most <= MOST[dtype] and mean <= MEAN[dtype]


@BOTH
def test_scenes_of_one_size_share_each_step_whatever_else_differs(
    several: Kontext, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = (FOX, MIA, OWL)
    found = several.draw([a_drawing(scene) for scene in scenes])
    assert batches == [3, 3, 3, 2, 1]
    for scene, outcome in zip(scenes, found, strict=True):
        assert near(several, outcome, alone(several, scene, monkeypatch))
        assert (drawn(outcome).together, drawn(outcome).denoised) == (3, scene.steps)


@BOTH
def test_their_latents_are_those_of_single_drawings(
    several: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = several._pipeline.transformer.dtype
    scenes, last = (FOX, MIA, OWL), dict[str, bytes]()

    def keeping(scene: Scene) -> Any:
        return lambda step, save: last.update({scene.prompt: save()})

    several.draw([a_drawing(scene, on_step=keeping(scene)) for scene in scenes])
    monkeypatch.setattr(several, "together", 1)
    for scene in scenes:
        _, kept = saves_of(several, scene)
        own, single = (read_latents(c[32:])["0"] for c in (last[scene.prompt], kept[scene.steps]))
        apart = (own.float() - single.float()).abs().max().item()
        print(f"{dtype}: {apart:.1e} of {single.abs().max():.1f}")
        assert apart <= LATENTS[dtype]


def test_the_images_of_one_scene_share_the_device_too(
    several: Kontext, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = a_scene(count=4, references=(a_reference(),))
    found = draw(several, scene)
    assert batches == [3, 3, 1, 1]
    assert near(several, found, alone(several, scene, monkeypatch))


def test_other_sizes_go_after(
    several: Kontext, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def stepping(scene: Scene) -> Any:
        return lambda *_: order.append(scene.prompt)

    scenes = (FOX, TALL, OWL)
    found = several.draw([a_drawing(scene, on_step=stepping(scene)) for scene in scenes])
    assert batches == [2, 2, 2, 1, 1, 1]
    assert order == ["A fox", "An owl, awake"] * 3 + ["An owl, awake"] + ["A tower"] * 2
    for scene, outcome in zip(scenes, found, strict=True):
        assert near(several, outcome, alone(several, scene, monkeypatch))


@pytest.mark.parametrize(
    "references", [(a_reference("navy", 64, 64),), (a_reference(),) * 2], ids=["size", "number"]
)
def test_references_of_other_sizes_or_another_number_go_after(
    several: Kontext, batches: list[int], references: tuple[Reference, ...]
) -> None:
    one, other = a_scene(references=(a_reference(),)), a_scene(references=references)
    several.draw([a_drawing(one), a_drawing(other)])
    assert batches == [1, 1, 1, 1]


def test_one_that_is_canceled_in_the_middle_leaves_the_others_as_they_were(
    several: Kontext, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = KeyError("canceled")
    scenes = (FOX, MIA, OWL)
    drawings = [a_drawing(scene) for scene in scenes]
    drawings[1] = a_drawing(MIA, on_step=stopping_at(2, wish))
    found = several.draw(drawings)
    assert found[1] is wish
    assert batches == [3, 3, 2, 1]
    for scene, outcome in zip(scenes[::2], found[::2], strict=True):
        assert near(several, outcome, alone(several, scene, monkeypatch))


def test_one_that_goes_on_and_one_that_begins_share_the_device(
    several: Kontext, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(several, "together", 1)
        _, kept = saves_of(several, MIA)
    batches.clear()
    found = several.draw([a_drawing(MIA, resume=kept[3]), a_drawing(FOX)])
    assert batches == [2, 2, 1]
    assert (drawn(found[0]).resumed_at, drawn(found[0]).denoised) == (3, 2)
    for scene, outcome in zip((MIA, FOX), found, strict=True):
        assert near(several, outcome, alone(several, scene, monkeypatch))


def test_a_reference_that_fails_fails_no_other(
    several: Kontext, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ReferenceDamaged("it was deleted")

    def fail(reference: Reference) -> Any:
        raise gone

    broken = a_scene(width=80, references=(a_reference("plum"),))
    found = several.draw([a_drawing(broken, read=fail), a_drawing(FOX), a_drawing(OWL)])
    assert found[0] is gone
    assert batches == [2, 2, 2, 1]
    for scene, outcome in zip((FOX, OWL), found[1:], strict=True):
        assert near(several, outcome, alone(several, scene, monkeypatch))


def test_one_whose_numbers_go_wrong_begins_again_and_the_others_go_on(
    several: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = several._pipeline.transformer
    forward, taken = transformer.forward, list[int]()

    def spoiling(**inputs: Any) -> Any:
        taken.append(len(inputs["hidden_states"]))
        velocity = forward(**inputs)[0]
        if len(taken) == 2:
            velocity[1] = float("nan")
        return (velocity,)

    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(transformer, "forward", spoiling)
        found = several.draw(
            [
                a_drawing(FOX),
                a_drawing(MIA, on_step=lambda step, _: steps.append(step)),
                a_drawing(OWL),
            ]
        )
    assert steps == [1, 1, 2, 3, 4, 5]
    assert taken == [3, 3, 3, 2, 1, 1, 1]
    for scene, outcome in zip((FOX, MIA, OWL), found, strict=True):
        assert near(several, outcome, alone(several, scene, monkeypatch))


def in_order(outcomes: Sequence[Drawn | Exception]) -> list[bytes]:
    return [each for outcome in outcomes for each in pixels(outcome)]


def test_one_at_a_time_gives_the_very_bits_whoever_waits_beside(kontext: Kontext) -> None:
    scenes = (FOX, MIA, TALL)
    assert kontext.together == 1
    found = kontext.draw([a_drawing(scene) for scene in scenes])
    assert in_order(found) == in_order([draw(kontext, scene) for scene in scenes])
