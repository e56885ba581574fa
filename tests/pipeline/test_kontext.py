"""The pipeline: what decides a picture, what does not, and how a drawing may end."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageStat

from shared.errors import BlankImage, InvalidReference, OutOfMemory
from shared.scenes import Scene, Weights
from shared.vocabulary import Phase
from tests.pipeline.conftest import THREADS
from worker.pipeline.kontext import Kontext
from worker.pipeline.residency import Residency, choose_residency

Progress = tuple[Phase, int, int]


def a_scene(**changes: Any) -> Scene:
    scene = Scene(
        prompt="Mia hides under the bed",
        width=64,
        height=64,
        steps=2,
        guidance=2.5,
        seed=7,
        weights=Weights(label="any", sha256="0" * 64),
    )
    return replace(scene, **changes)


def a_reference(width: int = 96, height: int = 64, colour: str = "crimson") -> Image.Image:
    picture = Image.new("RGB", (width, height), "khaki")
    ImageDraw.Draw(picture).ellipse((5, 5, width // 2, height // 2), fill=colour)
    return picture


def draw(
    kontext: Kontext, scene: Scene, references: Sequence[Image.Image] = ()
) -> list[Image.Image]:
    return kontext.generate(scene, references, on_progress=lambda *_: None)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures' channels, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


@pytest.mark.parametrize("size", [(64, 64), (80, 64), (64, 304), (208, 112)])
@pytest.mark.parametrize("with_reference", [False, True])
def test_a_picture_has_exactly_the_size_asked_for(
    kontext: Kontext, size: tuple[int, int], with_reference: bool
) -> None:
    references = [a_reference(30, 300)] if with_reference else []
    [image] = draw(kontext, a_scene(width=size[0], height=size[1]), references)
    assert (image.size, image.mode) == (size, "RGB")


def test_a_picture_is_colourful(kontext: Kontext) -> None:
    [image] = draw(kontext, a_scene(width=256, height=256, steps=4))
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
    assert difference(plain[0], changed[0]) > 1


def test_prompts_seeds_and_references_change_it_clearly(kontext: Kontext) -> None:
    scene = a_scene(width=128, height=128, steps=4)
    [plain] = draw(kontext, scene)
    [other_prompt] = draw(kontext, replace(scene, prompt="A red fox in the snow"))
    [other_seed] = draw(kontext, replace(scene, seed=8))
    [kept] = draw(kontext, scene, [a_reference()])
    [kept_otherwise] = draw(kontext, scene, [a_reference(colour="navy")])
    for other in (other_prompt, other_seed, kept):
        assert difference(plain, other) > 10
    assert difference(kept, kept_otherwise) > 2


def test_the_same_recipe_gives_the_same_bytes(kontext: Kontext) -> None:
    scene, references = a_scene(steps=4), [a_reference()]
    first = draw(kontext, scene, references)
    draw(kontext, a_scene(prompt="something in between", width=96))
    assert draw(kontext, scene, references)[0].tobytes() == first[0].tobytes()


@pytest.mark.parametrize("references", [[], [a_reference()]])
def test_each_of_several_images_is_what_its_seed_alone_draws(
    kontext: Kontext, references: list[Image.Image]
) -> None:
    scene = a_scene(count=3, seed=2**32 - 2)
    together = draw(kontext, scene, references)
    assert len(together) == 3
    for image, seed in zip(together, scene.seeds, strict=True):
        [alone] = draw(kontext, replace(scene, count=1, seed=seed), references)
        assert image.tobytes() == alone.tobytes()


def test_a_prompt_is_encoded_once_for_several_images(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, calls = kontext._pipeline.text_encoder_2, []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    draw(kontext, a_scene(count=3))
    assert len(calls) == 1


def test_progress_counts_the_steps_of_all_images(kontext: Kontext) -> None:
    heard: list[Progress] = []
    kontext.generate(a_scene(count=2), [], on_progress=lambda *at: heard.append(at))
    assert heard == [
        (Phase.ENCODING, 0, 4),
        (Phase.DENOISING, 0, 4),
        (Phase.DENOISING, 1, 4),
        (Phase.DENOISING, 2, 4),
        (Phase.DECODING, 2, 4),
        (Phase.DENOISING, 2, 4),
        (Phase.DENOISING, 3, 4),
        (Phase.DENOISING, 4, 4),
        (Phase.DECODING, 4, 4),
    ]


@pytest.mark.parametrize(
    "stop_at", [(Phase.ENCODING, 0, 6), (Phase.DENOISING, 2, 6), (Phase.DECODING, 3, 6)]
)
@pytest.mark.parametrize("residency", [Residency.RESIDENT, Residency.OFFLOAD])
def test_what_the_callback_raises_stops_at_once_and_harms_nothing(
    request: pytest.FixtureRequest, stop_at: Progress, residency: Residency
) -> None:
    kontext = request.getfixturevalue(
        "kontext" if residency is Residency.RESIDENT else "offloading"
    )
    scene = a_scene(steps=3, count=2)
    expected = draw(kontext, scene, [a_reference()])
    wish, heard = KeyError("stop"), []

    def stop(*at: Any) -> None:
        heard.append(at)
        if at == stop_at:
            raise wish

    with pytest.raises(KeyError) as caught:
        kontext.generate(scene, [a_reference()], on_progress=stop)
    assert caught.value is wish
    assert heard[-1] == stop_at
    again = draw(kontext, scene, [a_reference()])
    assert [image.tobytes() for image in again] == [image.tobytes() for image in expected]


@pytest.fixture(scope="module")
def offloading(tiny: Path) -> Kontext:
    return Kontext(tiny, residency=Residency.OFFLOAD, device="cpu", threads=THREADS)


def test_offloaded_models_draw_the_same_picture(kontext: Kontext, offloading: Kontext) -> None:
    assert (kontext.residency, offloading.residency) == (Residency.RESIDENT, Residency.OFFLOAD)
    assert hasattr(offloading._pipeline.transformer, "_hf_hook")  # it is the other mode
    scene = a_scene(steps=4, count=2)
    for references in ([], [a_reference()]):
        resident, offloaded = (draw(each, scene, references) for each in (kontext, offloading))
        assert [image.tobytes() for image in resident] == [image.tobytes() for image in offloaded]


def test_offloaded_models_are_evicted_after_every_drawing(
    offloading: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    evicted: list[int] = []
    evict = offloading._after_drawing
    monkeypatch.setattr(offloading, "_after_drawing", lambda: (evicted.append(1), evict()))
    draw(offloading, a_scene())
    with pytest.raises(InvalidReference):
        draw(offloading, a_scene(), [a_reference()] * 2)

    def stop(*at: Any) -> None:
        raise KeyError(at)

    with pytest.raises(KeyError):
        offloading.generate(a_scene(), [], on_progress=stop)
    assert len(evicted) == 2


@pytest.mark.parametrize("wish", [Residency.RESIDENT, Residency.OFFLOAD])
def test_a_wished_residency_is_kept(wish: Residency) -> None:
    assert choose_residency(wish, torch.device("cpu"), weights_bytes=2**50) is wish


def test_auto_is_resident_on_a_cpu_and_goes_by_memory_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(device: str, gigabytes: int) -> Residency:
        where = torch.device(device)
        return choose_residency(Residency.AUTO, where, weights_bytes=gigabytes * 2**30)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (22 * 2**30, 24 * 2**30))
    assert chosen("cpu", 999) is Residency.RESIDENT
    assert chosen("cuda", 18) is Residency.RESIDENT
    assert chosen("cuda", 19) is Residency.OFFLOAD


def test_more_than_one_reference_is_refused(kontext: Kontext) -> None:
    with pytest.raises(InvalidReference, match="one reference per scene for now"):
        draw(kontext, a_scene(), [a_reference(), a_reference()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_a_blank_image(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    transformer = kontext._pipeline.transformer
    forward = transformer.forward

    def broken(*args: Any, **options: Any) -> Any:
        return tuple(output * value for output in forward(*args, **options))

    with monkeypatch.context() as patch:
        patch.setattr(transformer, "forward", broken)
        with pytest.raises(BlankImage, match="latents"):
            draw(kontext, a_scene())
    draw(kontext, a_scene())


@pytest.mark.parametrize(
    ("scale", "said"), [(float("nan"), "decoded picture"), (0.0, "flat"), (0.001, "flat")]
)
def test_a_picture_that_shows_nothing_is_a_blank_image(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch, scale: float, said: str
) -> None:
    vae = kontext._pipeline.vae
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda *a, **k: (decode(*a, **k)[0] * scale,))
    with pytest.raises(BlankImage, match=said):
        draw(kontext, a_scene())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_no_memory_is_told_as_such(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(kontext._pipeline.vae, "decode", fail)
    with pytest.raises(OutOfMemory, match="no room"):
        draw(kontext, a_scene())


def test_any_other_error_comes_through(kontext: Kontext, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(kontext._pipeline.vae, "decode", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        draw(kontext, a_scene())


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
