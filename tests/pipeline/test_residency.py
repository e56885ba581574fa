"""Residency: every mode draws the same picture, and only those that are to move weights do."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FluxKontextPipeline
from PIL import Image
from torch import nn
from transformers import T5EncoderModel

from shared.scenes import Reference, Scene, Weights
from shared.settings import Residency
from tests.pipeline.moved import Moved
from worker.drawing import Drawing, Drawn
from worker.pipeline.kontext import Kontext
from worker.pipeline.residency import set_tiles, settle

pytestmark = pytest.mark.slow  # whole drawings, many of them

CPU = torch.device("cpu")
SCENE = Scene(
    prompt="",
    width=64,
    height=64,
    steps=1,
    guidance=2.5,
    seed=7,
    weights=Weights(label="any", sha256="0" * 64),
)
MODES = [Residency.RESIDENT, Residency.STREAM_T5, Residency.OFFLOAD]


@pytest.fixture(scope="module")
def unsettled(load: Callable[..., Kontext]) -> FluxKontextPipeline:
    return load()._pipeline


@pytest.fixture
def settled(unsettled: FluxKontextPipeline) -> Iterator[Callable[[Residency], FluxKontextPipeline]]:
    """One pipeline, settled as the test asks; the next one finds it resident and whole."""

    def settled_as(residency: Residency) -> FluxKontextPipeline:
        settle(unsettled, residency, CPU)
        return unsettled

    yield settled_as
    settle(unsettled, Residency.RESIDENT, CPU)
    set_tiles(unsettled, tiled=False)


def draw(pipeline: FluxKontextPipeline, **changes: Any) -> bytes:
    asked = {
        "prompt": "Mia hides under the bed",
        "image": Image.new("RGB", (64, 96), "khaki"),
        "width": 64,
        "height": 64,
        "max_area": 64 * 64,
        "_auto_resize": False,
        "num_inference_steps": 2,
        "generator": torch.Generator("cpu").manual_seed(7),
    }
    return pipeline(**(asked | changes)).images[0].tobytes()


def hooks_of(pipeline: FluxKontextPipeline) -> list[str]:
    return [
        f"{name}.{path}"
        for name, model in pipeline.components.items()
        if isinstance(model, nn.Module)
        for path, module in model.named_modules()
        if is_hooked(module)
    ]


def is_hooked(module: nn.Module) -> bool:
    own = vars(module).get("forward")  # both libraries put theirs in front of the class's
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or hasattr(module, "_hf_hook")
        or (hasattr(module, "_diffusers_hook") and module._diffusers_hook.hooks)
        or (own is not None and getattr(own, "__func__", None) is not type(module).forward)
    )


def places_of(pipeline: FluxKontextPipeline) -> dict[str, set[str]]:
    return {
        name: {parameter.device.type for parameter in model.parameters()}
        for name, model in pipeline.components.items()
        if isinstance(model, nn.Module)
    }


def test_every_mode_draws_the_same_bytes(
    settled: Callable[[Residency], FluxKontextPipeline],
) -> None:
    expected = draw(settled(Residency.RESIDENT))
    # in turn on one pipeline, as stepping down does; twice, for a first pass learns the order
    for mode in (*MODES, *reversed(MODES), Residency.STREAM_T5, Residency.RESIDENT):
        pipeline = settled(mode)
        assert draw(pipeline) == expected, mode
        assert draw(pipeline) == expected, mode


def test_a_plain_t5_is_streamed_as_a_packed_one_is(load: Callable[..., Kontext]) -> None:
    pipeline = load()._pipeline
    torch.manual_seed(1)
    pipeline.text_encoder_2 = T5EncoderModel(pipeline.text_encoder_2.config).eval()
    settle(pipeline, Residency.RESIDENT, CPU)
    expected = draw(pipeline)
    settle(pipeline, Residency.STREAM_T5, CPU)
    assert draw(pipeline) == expected
    assert hooks_of(pipeline)


@pytest.mark.parametrize(
    ("residency", "on_the_device"),
    [
        (Residency.RESIDENT, {"transformer", "text_encoder_2", "text_encoder", "vae"}),
        (Residency.STREAM_T5, {"transformer", "text_encoder", "vae"}),
        (Residency.OFFLOAD, set()),
    ],
)
def test_between_jobs_each_model_lies_where_it_should(
    load: Callable[..., Kontext],
    monkeypatch: pytest.MonkeyPatch,
    residency: Residency,
    on_the_device: set[str],
) -> None:
    pipeline = load()._pipeline
    monkeypatch.setattr(torch, "meta", torch.cpu, raising=False)  # where torch looks for streams
    settle(pipeline, residency, torch.device("meta"))  # a device that is not the CPU
    assert {name for name, at in places_of(pipeline).items() if at == {"meta"}} == on_the_device
    assert all(len(at) == 1 for at in places_of(pipeline).values())


def test_resident_models_have_no_hook(settled: Callable[[Residency], FluxKontextPipeline]) -> None:
    for before in MODES:
        settled(before)
        assert hooks_of(settled(Residency.RESIDENT)) == [], before


def test_streaming_hooks_onto_every_layer_of_t5_and_nothing_else(
    settled: Callable[[Residency], FluxKontextPipeline],
) -> None:
    pipeline = settled(Residency.STREAM_T5)
    hooked = hooks_of(pipeline)
    assert {path.split(".")[0] for path in hooked} == {"text_encoder_2"}
    with_weights = [
        f"text_encoder_2.{path}"
        for path, module in pipeline.text_encoder_2.named_modules()
        if list(module.parameters(recurse=False))
    ]
    assert set(with_weights) <= set(hooked)


@pytest.mark.parametrize("residency", MODES)
def test_ten_jobs_move_weights_only_where_models_are_not_resident(
    load: Callable[..., Kontext], residency: Residency
) -> None:
    kontext = load(residency=residency)
    pipeline = kontext._pipeline

    def job(number: int) -> Drawing:
        reference = Reference(
            asset=f"ast_{number}",
            sha256=f"{number:064x}",
            artifact=f"assets/{number}",
            generation=1,
            width=64,
            height=96,
        )
        return Drawing(
            scene=replace(SCENE, prompt=f"Mia and {number} cats", references=(reference,)),
            read=lambda _: Image.new("RGB", (64, 96), (25 * number, 90, 30)),
            on_progress=lambda *_: None,
        )

    with Moved(pipeline) as moved:
        drawn = [kontext.draw([job(number)])[0] for number in range(10)]
    assert all(isinstance(each, Drawn) for each in drawn), drawn

    def size(*names: str) -> int:
        models = [getattr(pipeline, name) for name in names]
        return sum(each.nbytes for model in models for each in model.parameters())

    at_least = {
        Residency.RESIDENT: 0,
        Residency.STREAM_T5: 10 * size("text_encoder_2"),
        Residency.OFFLOAD: 10 * size("text_encoder", "text_encoder_2", "transformer", "vae"),
    }[residency]
    assert at_least <= moved.bytes <= 2 * at_least


def test_an_interrupted_reading_leaves_the_next_one_whole(
    settled: Callable[[Residency], FluxKontextPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw(settled(Residency.RESIDENT))
    pipeline = settled(Residency.STREAM_T5)
    last = pipeline.text_encoder_2.encoder.final_layer_norm

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(last, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            draw(pipeline)
    assert draw(pipeline) == expected
    assert draw(settled(Residency.OFFLOAD)) == expected


# --- tiles ---------------------------------------------------------------------------------------


def decode(pipeline: FluxKontextPipeline, height: int, width: int) -> torch.Tensor:
    latents = torch.randn(
        1, 16, height // 8, width // 8, generator=torch.Generator("cpu").manual_seed(3)
    )
    with torch.no_grad():
        pixels: torch.Tensor = pipeline.vae.decode(latents, return_dict=False)[0]
    return pixels


def both_ways(pipeline: FluxKontextPipeline, height: int, width: int) -> list[torch.Tensor]:
    given = []
    for tiled in (False, True):
        set_tiles(pipeline, tiled=tiled)
        given.append(decode(pipeline, height, width))
    return given


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (208, 512)])
def test_a_picture_of_one_tile_is_the_same_in_tiles(
    settled: Callable[[Residency], FluxKontextPipeline], size: tuple[int, int]
) -> None:
    whole, tiled = both_ways(settled(Residency.RESIDENT), *size)
    assert torch.equal(whole, tiled)


def test_tiles_change_a_larger_picture_by_little(
    settled: Callable[[Residency], FluxKontextPipeline],
) -> None:
    whole, tiled = both_ways(settled(Residency.RESIDENT), 528, 784)
    assert whole.shape == tiled.shape
    difference = (whole.clamp(-1, 1) - tiled.clamp(-1, 1)).abs() * 127.5
    assert 0.5 < difference.mean() < 3
