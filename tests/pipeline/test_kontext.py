"""The pipeline: what decides a picture, what does not, and what it tells meanwhile."""

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import ImageStat

from shared.errors import InvalidReference
from shared.scenes import Reference, Weights
from shared.vocabulary import Phase
from tests.pipeline.conftest import THREADS
from tests.pipeline.drawings import (
    Progress,
    a_drawing,
    a_reference,
    a_scene,
    difference,
    draw,
    pixels,
)
from worker.drawing import Save
from worker.pipeline.kontext import Kontext
from worker.pipeline.residency import Residency


@pytest.mark.parametrize("size", [(64, 64), (80, 64), (64, 304), (208, 112)])
@pytest.mark.parametrize("references", [(), (a_reference("crimson", 30, 300),)])
def test_a_picture_has_exactly_the_size_asked_for(
    kontext: Kontext, size: tuple[int, int], references: tuple[Reference, ...]
) -> None:
    scene = a_scene(width=size[0], height=size[1], references=references)
    [image] = draw(kontext, scene).images
    assert (image.size, image.mode) == (size, "RGB")


def test_a_picture_is_colourful(kontext: Kontext) -> None:
    [image] = draw(kontext, a_scene(width=256, height=256, steps=4)).images
    assert all(deviation > 10 for deviation in ImageStat.Stat(image).stddev)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "A red fox in the snow"},
        {"prompt": "Mia hides under the bee"},
        {"seed": 8},
        {"steps": 3},
        {"guidance": 6.0},
    ],
)
def test_everything_in_the_recipe_changes_the_picture(
    kontext: Kontext, change: dict[str, object]
) -> None:
    plain, changed = draw(kontext, a_scene()), draw(kontext, a_scene(**change))
    assert difference(plain.images[0], changed.images[0]) > 1


def test_prompts_seeds_and_references_change_it_clearly(kontext: Kontext) -> None:
    scene = a_scene(width=128, height=128, steps=4)

    def drawn_with(**changes: Any) -> Any:
        return draw(kontext, replace(scene, **changes)).images[0]

    plain = drawn_with()
    kept = drawn_with(references=(a_reference(),))
    for other in (drawn_with(prompt="A red fox in the snow"), drawn_with(seed=8), kept):
        assert difference(plain, other) > 10
    assert difference(kept, drawn_with(references=(a_reference("navy"),))) > 2


def test_the_same_recipe_gives_the_same_bytes(kontext: Kontext) -> None:
    scene = a_scene(steps=4, references=(a_reference(),))
    first = draw(kontext, scene)
    draw(kontext, a_scene(prompt="something in between", width=96))
    assert pixels(draw(kontext, scene)) == pixels(first)


@pytest.mark.parametrize("references", [(), (a_reference(),)])
def test_each_of_several_images_is_what_its_seed_alone_draws(
    kontext: Kontext, references: tuple[Reference, ...]
) -> None:
    scene = a_scene(count=3, seed=2**32 - 2, references=references)
    alone = [draw(kontext, replace(scene, count=1, seed=seed)) for seed in scene.seeds]
    assert pixels(draw(kontext, scene)) == [each for one in alone for each in pixels(one)]


def test_all_steps_of_all_images_come_before_the_first_is_decoded(kontext: Kontext) -> None:
    heard: list[Progress] = []
    draw(kontext, a_scene(count=2), on_progress=lambda *at: heard.append(at))
    assert heard == [
        (Phase.ENCODING, 0, 4),
        (Phase.DENOISING, 0, 4),
        (Phase.DENOISING, 1, 4),
        (Phase.DENOISING, 2, 4),
        (Phase.DENOISING, 3, 4),
        (Phase.DENOISING, 4, 4),
        (Phase.DECODING, 4, 4),
        (Phase.DECODING, 4, 4),
    ]


def test_a_step_can_be_saved_before_its_progress_is_told(kontext: Kontext) -> None:
    heard: list[str] = []

    def stepped(step: int, save: Save) -> None:
        heard.append(f"step {step}")

    def progressed(phase: Phase, step: int, steps: int) -> None:
        heard.append(f"{phase} {step}")

    draw(kontext, a_scene(), on_step=stepped, on_progress=progressed)
    assert heard == [
        "encoding 0",
        "denoising 0",
        "step 1",
        "denoising 1",
        "step 2",
        "denoising 2",
        "decoding 2",
    ]


def test_it_says_what_a_drawing_took(kontext: Kontext) -> None:
    found = draw(kontext, a_scene(count=2, steps=3))
    assert (found.denoised, found.resumed_at, found.together, found.peak_bytes) == (6, 0, 1, None)
    assert found.denoise_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop_at", [(Phase.ENCODING, 0, 6), (Phase.DENOISING, 2, 6), (Phase.DECODING, 6, 6)]
)
@pytest.mark.parametrize("residency", [Residency.RESIDENT, Residency.OFFLOAD])
def test_what_the_callback_raises_is_the_outcome_and_harms_nothing(
    request: pytest.FixtureRequest, stop_at: Progress, residency: Residency
) -> None:
    kontext = request.getfixturevalue(
        "kontext" if residency is Residency.RESIDENT else "offloading"
    )
    scene = a_scene(steps=3, count=2, references=(a_reference(),))
    expected = draw(kontext, scene)
    wish, heard = KeyError("stop"), []

    def stop(*at: Any) -> None:
        heard.append(at)
        if at == stop_at:
            raise wish

    assert kontext.draw([a_drawing(scene, on_progress=stop)]) == [wish]
    assert heard[-1] == stop_at
    assert pixels(draw(kontext, scene)) == pixels(expected)


@pytest.mark.slow
@pytest.mark.parametrize("callback", ["on_progress", "on_step", "read"])
@pytest.mark.parametrize("error", [KeyError("own"), RuntimeError("own"), InvalidReference("own")])
def test_a_callbacks_error_of_any_kind_is_that_drawings_alone(
    kontext: Kontext, callback: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    failing = a_scene(references=(a_reference("gold", 64, 80),))
    kontext._encoder.forget(failing)  # or it would not be read
    failed, found = kontext.draw([a_drawing(failing, **{callback: fail}), a_drawing(a_scene())])
    assert failed is error
    assert pixels(found) == pixels(draw(kontext, a_scene()))


def test_who_presses_ctrl_c_is_heard_through_all_drawings(kontext: Kontext) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kontext.draw([a_drawing(a_scene(), on_step=press), a_drawing(a_scene())])


@pytest.fixture(scope="module")
def offloading(load: Callable[..., Kontext]) -> Kontext:
    return load(residency=Residency.OFFLOAD)


def test_offloaded_models_draw_the_same_picture(kontext: Kontext, offloading: Kontext) -> None:
    assert (kontext.residency, offloading.residency) == (Residency.RESIDENT, Residency.OFFLOAD)
    assert hasattr(offloading._pipeline.transformer, "_hf_hook")  # it is the other mode
    scene = a_scene(steps=4, count=2)
    for each in (scene, replace(scene, references=(a_reference(),))):
        assert pixels(draw(kontext, each)) == pixels(draw(offloading, each))


def test_offloaded_models_are_evicted_after_every_drawing(
    offloading: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    evicted: list[int] = []
    evict = offloading._after_drawing
    monkeypatch.setattr(offloading, "_after_drawing", lambda: (evicted.append(1), evict()))
    draw(offloading, a_scene())

    def stop(*at: Any) -> None:
        raise KeyError(at)

    with pytest.raises(KeyError):
        draw(offloading, a_scene(), on_progress=stop)
    assert len(evicted) == 2


def test_a_long_prompt_is_drawn_and_never_written_down(
    kontext: Kontext, caplog: pytest.LogCaptureFixture
) -> None:
    words = "".join(random.Random(1).choices("abcdefgh ", k=4000))
    # both keep their records from the root; without this the test would hear nothing at all
    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for library in libraries:
        library.addHandler(caplog.handler)
    draw(kontext, a_scene(prompt=words))
    for library in libraries:
        library.removeHandler(caplog.handler)
    assert caplog.text == ""


def test_it_says_which_weights_it_draws_with(kontext: Kontext, tiny_name: Weights) -> None:
    assert kontext.weights == tiny_name
    assert kontext.device == "cpu"


def test_the_number_of_threads_is_fixed(kontext: Kontext) -> None:
    assert torch.get_num_threads() == THREADS
