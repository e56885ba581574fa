"""What goes wrong on the device: less is asked of it, and the next drawing knows nothing of it."""

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from shared.errors import BlankImage, OutOfMemory
from shared.scenes import Scene
from shared.vocabulary import Phase
from tests.pipeline.drawings import (
    Progress,
    a_drawing,
    a_reference,
    a_scene,
    difference,
    draw,
    drawn,
    farthest,
    in_advance,
    pixels,
)
from worker.pipeline.encode import Encoder
from worker.pipeline.kontext import Kontext
from worker.pipeline.residency import Residency

pytestmark = pytest.mark.slow  # whole drawings, many of them

# wide enough to be decoded in two tiles
WIDE = a_scene(width=640, height=64, references=(a_reference("plum", 96, 64),))
FULL = torch.OutOfMemoryError("CUDA out of memory")
POINTS = {
    "reading": ("text_encoder_2", "forward"),
    "looking": ("vae", "encode"),
    "a step": ("transformer", "forward"),
    "decoding": ("vae", "decode"),
}
# Each tile is normalised by itself; docs/weights.md says what was measured, of 255.
TILED = 8.0


class Fault:
    """Raises at a named point as often as it is told to, then lets through."""

    def __init__(self, kontext: Kontext, point: str, patch: pytest.MonkeyPatch) -> None:
        model, method = POINTS[point]
        owner = getattr(kontext._pipeline, model)
        self.times, self.error, self._real = 0, FULL, getattr(owner, method)
        patch.setattr(owner, method, self)

    def __call__(self, *rest: Any, **options: Any) -> Any:
        if self.times:
            self.times -= 1
            raise self.error
        return self._real(*rest, **options)


def stepped_down(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.__dict__["to"] for each in caplog.records if each.message == "stepped down"]


RUNGS = ["one image at a time", "pictures in tiles", "models offloaded"]


@pytest.mark.parametrize("point", list(POINTS))
def test_without_memory_it_steps_down_rung_by_rung_and_remembers(
    load: Callable[..., Kontext],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    point: str,
) -> None:
    kontext = load(together=2)
    fault = Fault(kontext, point, monkeypatch)
    scene = a_scene(steps=1)
    for rung in range(3):
        fault.times = 1
        new = a_reference(width=64 + 16 * rung)
        assert draw(kontext, replace(scene, prompt=f"{rung}", references=(new,))).images
        assert stepped_down(caplog) == RUNGS[: rung + 1]
    assert (kontext.together, kontext._encoder.together) == (1, 1)
    assert kontext._pipeline.vae.use_tiling
    assert kontext.residency is Residency.OFFLOAD
    fault.times = 1
    last = replace(scene, prompt="last", references=(a_reference("gold"),))
    with pytest.raises(OutOfMemory, match=r"no room.*CUDA out of memory"):
        draw(kontext, last)
    assert stepped_down(caplog) == RUNGS
    assert draw(kontext, last).images


def test_one_drawing_may_step_down_all_the_way_and_is_then_given_up(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kontext = load(together=2)
    fault = Fault(kontext, "a step", monkeypatch)
    fault.times = 4
    with pytest.raises(OutOfMemory):
        kontext.draw([a_drawing(a_scene()), a_drawing(a_scene(seed=8))])
    assert (stepped_down(caplog), fault.times) == (RUNGS, 0)


@pytest.mark.parametrize("point", list(POINTS))
def test_one_image_at_a_time_and_offloaded_draw_the_very_bits(
    kontext: Kontext, load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    own = load(together=2)
    scene = a_scene(count=2, references=(a_reference(),))
    fault = Fault(own, point, monkeypatch)
    # a picture as small as this is of one tile, so tiles change nothing either
    fault.times = 3
    steps: list[int] = []
    found = draw(own, scene, on_step=lambda step, _: steps.append(step))
    assert own.residency is Residency.OFFLOAD
    assert hasattr(own._pipeline.transformer, "_hf_hook")  # and it is so
    assert steps == [1, 2, 3, 4] or point == "decoding"
    alone = draw(kontext, scene)
    if point == "decoding":  # then the steps were taken together
        pairs = zip(found.images, alone.images, strict=True)
        assert all(farthest(one, other) <= 1 for one, other in pairs)
    else:
        assert pixels(found) == pixels(alone)


def test_a_picture_in_tiles_is_near_the_whole_one(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch, kontext: Kontext
) -> None:
    own = load()
    Fault(own, "decoding", monkeypatch).times = 1
    [found] = draw(own, WIDE).images
    [expected] = draw(kontext, WIDE).images
    print(f"tiles: mean {difference(found, expected):.2f}")
    assert 0 < difference(found, expected) < TILED
    assert own.residency is Residency.RESIDENT


def test_what_was_done_before_the_memory_ran_out_is_not_done_again(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch, kontext: Kontext
) -> None:
    own = load()
    scene = a_scene(count=2)
    decoding = Fault(own, "decoding", monkeypatch)
    heard: list[Progress] = []

    def hear(*at: Any) -> None:
        heard.append(at)
        if at == (Phase.DECODING, 4, 4) and heard.count(at) == 2:
            decoding.times = 1

    found = draw(own, scene, on_progress=hear)
    assert pixels(found) == pixels(draw(kontext, scene))
    assert heard.count((Phase.ENCODING, 0, 4)) == 1
    assert heard.count((Phase.DECODING, 4, 4)) == 3  # the first image once, the second twice
    assert found.denoised == 4


def test_an_encoding_that_is_tried_again_is_told_and_counted_once(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load()
    Fault(own, "looking", monkeypatch).times = 1
    heard: list[Progress] = []
    first = a_drawing(a_scene(), on_progress=lambda *at: heard.append(at))
    second = a_drawing(
        a_scene(references=(a_reference(),)), on_progress=lambda *at: heard.append(at)
    )
    found = own.draw([first, second])
    # both begin, and the first of them was encoded when there was no room for the second
    assert heard[:4] == [(Phase.ENCODING, 0, 2)] * 2 + [(Phase.DENOISING, 0, 2)] * 2
    assert heard[4] == (Phase.DENOISING, 1, 2)
    assert [drawn(each).remembered for each in found] == [0, 0]


def test_what_filled_the_memory_is_let_go_before_less_is_tried(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(together=2)
    filled: list[weakref.ref[torch.Tensor]] = []
    left: list[object] = []
    transformer, forward = own._pipeline.transformer, own._pipeline.transformer.forward

    def fill(**inputs: Any) -> Any:
        if len(inputs["hidden_states"]) == 1:
            return forward(**inputs)
        large = torch.zeros(1000)
        filled.append(weakref.ref(large))
        raise torch.OutOfMemoryError("full")

    step_down = own._step_down

    def looking() -> bool:
        left.extend(each() for each in filled)
        return step_down()

    monkeypatch.setattr(transformer, "forward", fill)
    monkeypatch.setattr(own, "_step_down", looking)
    draw(own, a_scene(count=2))
    assert left == [None]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_no_memory_is_told_as_such(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    own = load(residency=Residency.OFFLOAD)
    fault = Fault(own, "decoding", monkeypatch)
    fault.times, fault.error = 2, error
    with pytest.raises(OutOfMemory, match="no room"):
        draw(own, a_scene())


def test_any_other_error_of_the_device_comes_through_for_all(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(kontext, "decoding", monkeypatch)
    fault.times, fault.error = 1, RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError, match="shape mismatch"):
        kontext.draw([a_drawing(a_scene()), a_drawing(a_scene(seed=8))])


def spoil_step(
    kontext: Kontext, patch: pytest.MonkeyPatch, *, at: tuple[int, ...], value: float
) -> None:
    """Let the transformer give no numbers at these of its forwards."""
    transformer, taken = kontext._pipeline.transformer, list[int]()
    forward = transformer.forward

    def broken(*rest: Any, **options: Any) -> Any:
        taken.append(1)
        factor = value if len(taken) in at else 1
        return tuple(output * factor for output in forward(*rest, **options))

    patch.setattr(transformer, "forward", broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_latents_that_are_no_numbers_once_are_drawn_again(
    kontext: Kontext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: float,
    at: int,
) -> None:
    scene = a_scene(steps=3)
    expected = draw(kontext, scene)
    heard: list[int] = []
    with monkeypatch.context() as patch:
        spoil_step(kontext, patch, at=(at,), value=value)
        found = draw(kontext, scene, on_progress=lambda _phase, step, _steps: heard.append(step))
    assert pixels(found) == pixels(expected)
    assert heard == [0, *range(at), *range(4), 3]
    assert found.denoised == at - 1 + 3
    assert caplog.messages == ["latents are not numbers, drawing again"]


@pytest.mark.parametrize("at", [(1, 2), (2, 3), (3, 5)])
def test_latents_that_are_no_numbers_twice_are_a_blank_image(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch, at: tuple[int, ...]
) -> None:
    with monkeypatch.context() as patch:
        spoil_step(kontext, patch, at=at, value=float("nan"))
        with pytest.raises(BlankImage, match="latents"):
            draw(kontext, a_scene(steps=3))
    draw(kontext, a_scene())


def test_one_that_went_on_and_went_wrong_is_drawn_from_the_start(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, bytes] = {}
    scene = a_scene(steps=3)
    expected = draw(kontext, scene, on_step=lambda step, save: kept.update({step: save()}))
    with monkeypatch.context() as patch:
        spoil_step(kontext, patch, at=(1,), value=float("nan"))
        found = draw(kontext, scene, resume=kept[2])
    assert pixels(found) == pixels(expected)
    assert (found.resumed_at, found.denoised) == (0, 3)


def test_no_memory_while_it_is_encoded_again_is_no_second_failure(
    load: Callable[..., Kontext], kontext: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load()
    reading = Fault(own, "reading", monkeypatch)
    spoil_step(own, monkeypatch, at=(2, 3), value=float("nan"))

    def hear(phase: Phase, step: int, steps: int) -> None:
        reading.times = int(step == 1 and not own._pipeline.vae.use_tiling)

    assert pixels(draw(own, a_scene(), on_progress=hear)) == pixels(draw(kontext, a_scene()))
    assert own._pipeline.vae.use_tiling


@pytest.mark.parametrize("what", ["prompts", "references"])
def test_a_memory_that_was_poisoned_heals(kontext: Kontext, what: str) -> None:
    scene = a_scene(references=(a_reference(),))
    expected = draw(kontext, scene)
    remembered: Any = getattr(kontext._encoder, what)
    key = scene.prompt if what == "prompts" else scene.references[0].sha256
    remembered.put(key, tuple(each * float("nan") for each in remembered.get(key)))
    assert pixels(draw(kontext, scene)) == pixels(expected)
    assert all(each.isfinite().all() for each in remembered.get(key))
    assert pixels(draw(kontext, scene)) == pixels(expected)


def spoil_decoding(
    kontext: Kontext, patch: pytest.MonkeyPatch, *, scale: float, times: int
) -> list[torch.dtype]:
    """Let the VAE show nothing so many times; gives the types that it was asked in."""
    vae, asked = kontext._pipeline.vae, list[torch.dtype]()
    decode = vae.decode

    def broken(latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        asked.append(latents.dtype)
        pixels = decode(latents, *rest, **options)[0]
        return (pixels * scale if len(asked) <= times else pixels,)

    patch.setattr(vae, "decode", broken)
    return asked


NOTHING = [(float("nan"), "decoded picture"), (0.0, "flat"), (0.001, "flat")]


@pytest.mark.parametrize(("scale", "said"), NOTHING)
def test_a_picture_that_shows_nothing_in_bfloat16_is_decoded_once_more_in_float32(
    half: Kontext, monkeypatch: pytest.MonkeyPatch, scale: float, said: str
) -> None:
    expected = draw(half, a_scene())
    before = {name: each.clone() for name, each in half._pipeline.vae.state_dict().items()}
    with monkeypatch.context() as patch:
        asked = spoil_decoding(half, patch, scale=scale, times=1)
        found = draw(half, a_scene())
    assert asked == [torch.bfloat16, torch.float32]
    assert difference(found.images[0], expected.images[0]) < 2
    after = half._pipeline.vae.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert {each.dtype for each in after.values()} == {torch.bfloat16}
    assert pixels(draw(half, a_scene())) == pixels(expected)


@pytest.mark.parametrize(("scale", "said"), NOTHING)
def test_a_picture_that_shows_nothing_in_float32_either_is_a_blank_image(
    either: Kontext, monkeypatch: pytest.MonkeyPatch, scale: float, said: str
) -> None:
    dtype = either._pipeline.vae.dtype
    with monkeypatch.context() as patch:
        asked = spoil_decoding(either, patch, scale=scale, times=9)
        with pytest.raises(BlankImage, match=said):
            draw(either, a_scene())
    assert asked == list(dict.fromkeys([dtype, torch.float32]))
    assert either._pipeline.vae.dtype is dtype
    draw(either, a_scene())


def test_no_memory_for_float32_leaves_the_vae_as_it_was(
    load: Callable[..., Kontext], half: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(dtype=torch.bfloat16)
    vae, decode, asked = own._pipeline.vae, own._pipeline.vae.decode, list[torch.dtype]()

    def broken(latents: torch.Tensor, *rest: Any, **options: Any) -> Any:
        asked.append(latents.dtype)
        if len(asked) == 2:
            raise torch.OutOfMemoryError("full")
        pixels = decode(latents, *rest, **options)[0]
        return (pixels * 0 if len(asked) == 1 else pixels,)

    monkeypatch.setattr(vae, "decode", broken)
    found = draw(own, a_scene())
    assert asked == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert pixels(found) == pixels(draw(half, a_scene()))


def test_nobody_else_uses_the_vae_while_it_may_change_its_precision(
    half: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, decode, got = half._pipeline.vae, half._pipeline.vae.decode, list[bool]()

    def decoding(*rest: Any, **options: Any) -> Any:
        lock = half._encoder.lock
        thread = threading.Thread(target=lambda: got.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join(30)
        return decode(*rest, **options)

    monkeypatch.setattr(vae, "decode", decoding)
    draw(half, a_scene())
    assert got == [False]


class Unforeseen(Exception):
    pass


@pytest.mark.parametrize("point", list(POINTS))
@pytest.mark.parametrize("error", [RuntimeError("lost"), Unforeseen("lost")], ids=["device", "own"])
def test_after_whatever_went_wrong_the_next_drawing_is_a_fresh_pipelines(
    load: Callable[..., Kontext],
    kontext: Kontext,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    error: Exception,
) -> None:
    scene = a_scene(references=(a_reference(),), prompt="next")
    kontext._encoder = Encoder(kontext._pipeline)
    resets: list[int] = []
    reset = kontext._pipeline.transformer._reset_stateful_cache
    with monkeypatch.context() as patch:
        transformer = kontext._pipeline.transformer
        patch.setattr(transformer, "_reset_stateful_cache", lambda: (resets.append(1), reset()))
        fault = Fault(kontext, point, patch)
        fault.times, fault.error = 1, error
        with pytest.raises(type(error)):
            draw(kontext, scene)
    assert resets == [1]
    assert pixels(draw(kontext, scene)) == fresh(load, scene)
    lock, free = kontext._encoder.lock, list[bool]()

    def take() -> None:
        free.append(lock.acquire(timeout=5))
        if free == [True]:
            lock.release()

    thread = threading.Thread(target=take)  # this thread could take it twice
    thread.start()
    thread.join(30)
    assert free == [True]


DRAWN: dict[Scene, list[bytes]] = {}


def fresh(load: Callable[..., Kontext], scene: Scene) -> list[bytes]:
    """Draw with a pipeline that has drawn nothing before."""
    if scene not in DRAWN:
        DRAWN[scene] = pixels(draw(load(), scene))
    return DRAWN[scene]


def test_caches_are_reset_after_every_drawing(
    kontext: Kontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets: list[int] = []
    transformer = kontext._pipeline.transformer
    monkeypatch.setattr(transformer, "_reset_stateful_cache", lambda: resets.append(1))
    kontext.draw([a_drawing(a_scene()), a_drawing(a_scene(seed=8))])
    assert resets == [1]


def test_what_is_told_of_a_lack_of_memory_is_no_prompt(
    load: Callable[..., Kontext], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own = load()
    Fault(own, "reading", monkeypatch).times = 1
    drawn(own.draw([a_drawing(a_scene(prompt="a secret"))], ahead=in_advance(a_scene()))[0])
    assert stepped_down(caplog) == ["pictures in tiles"]
    assert "secret" not in str([record.__dict__ for record in caplog.records])
