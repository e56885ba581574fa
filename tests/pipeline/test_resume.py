"""Going on from saved latents: the same picture, and never an error for what was kept badly."""

import json
import multiprocessing
import os
import pickle
import signal
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load, save

from shared.errors import CheckpointRefused
from shared.scenes import recipe_of
from tests.pipeline.conftest import THREADS
from tests.pipeline.drawings import (
    a_drawing,
    a_reference,
    a_scene,
    draw,
    farthest,
    picture_of,
    pixels,
    saves_of,
    stopping_at,
)
from worker.drawing import Drawn, Save
from worker.pipeline.denoise import Row, conditions_of, first_row
from worker.pipeline.kontext import Kontext
from worker.pipeline.latents import restore_latents, write_latents
from worker.pipeline.residency import Residency
from worker.pipeline.start import begin

pytestmark = pytest.mark.slow

SCENE = a_scene(steps=3, references=(a_reference(),))


@pytest.mark.parametrize(("count", "steps"), [(1, 4), (3, 2)])
def test_at_every_step_it_goes_on_to_the_same_bits(either: Kontext, count: int, steps: int) -> None:
    scene = replace(SCENE, count=count, steps=steps)
    whole, kept = saves_of(either, scene)
    assert list(kept) == list(range(1, steps * count + 1))
    for step, content in kept.items():
        resumed = draw(either, scene, resume=content)
        assert pixels(resumed) == pixels(whole)
        assert (resumed.resumed_at, resumed.denoised) == (step, steps * count - step)


def test_a_drawing_that_was_stopped_goes_on_and_can_be_saved_again(kontext: Kontext) -> None:
    whole, kept = saves_of(kontext, SCENE)
    stopped = kontext.draw([a_drawing(SCENE, on_step=stopping_at(1, KeyError("stop")))])
    assert isinstance(stopped[0], KeyError)
    again: dict[int, bytes] = {}
    draw(kontext, SCENE, resume=kept[1], on_step=lambda step, save: again.update({step: save()}))
    assert list(again) == [2, 3]
    assert pixels(draw(kontext, SCENE, resume=again[2])) == pixels(whole)


def test_what_is_saved_late_is_still_of_the_step_that_was_told(kontext: Kontext) -> None:
    scene = a_scene(count=2)
    whole = draw(kontext, scene)
    late: dict[int, Save] = {}
    draw(kontext, scene, on_step=lambda step, save: late.update({step: save}))
    for step, save_later in late.items():
        resumed = draw(kontext, scene, resume=save_later())
        assert resumed.resumed_at == step
        assert pixels(resumed) == pixels(whole)


def spoiled(
    content: bytes, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
) -> bytes:
    """Change metadata or tensors, and vouch for it with a right digest."""
    body = content[32:]
    length = struct.unpack("<Q", body[:8])[0]
    metadata = json.loads(body[8 : 8 + length])["__metadata__"]
    tensors = load(body)
    change(metadata, tensors)
    return vouched(save(tensors, metadata=metadata))


def vouched(body: bytes) -> bytes:
    return sha256(body).digest() + body


def with_metadata(**changes: str) -> Callable[[bytes], bytes]:
    return lambda content: spoiled(content, lambda metadata, _: metadata.update(changes))


def with_tensor(
    name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[bytes], bytes]:
    return lambda content: spoiled(
        content, lambda _, tensors: tensors.update({name: change(tensors["0"])})
    )


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def with_header(header: bytes) -> Callable[[bytes], bytes]:
    return lambda _: vouched(struct.pack("<Q", len(header)) + header)


def renamed_type(content: bytes) -> bytes:
    """Say that the numbers are of a type that torch cannot read from a file."""
    return vouched(content[32:].replace(b'"BF16"', b'"F8_E8M0"').replace(b'"F32"', b'"C64"'))


REFUSALS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "damaged"),
    "truncated": (lambda content: content[:-1], "damaged"),
    "cut in its header": (lambda content: content[:60], "damaged"),
    "extended": (lambda content: content + b"\0", "damaged"),
    "a bit in the digest": (lambda content: flipped(content, 5), "damaged"),
    "a bit in the length": (lambda content: flipped(content, 33), "damaged"),
    "a bit in the header": (lambda content: flipped(content, 70), "damaged"),
    "a bit in the numbers": (lambda content: flipped(content, len(content) - 9), "damaged"),
    "pickled": (lambda _: pickle.dumps({"0": [1.0] * 64}), "damaged"),
    "pickled and vouched for": (lambda _: vouched(pickle.dumps({"0": 1})), "header"),
    "vouched emptiness": (lambda _: vouched(b""), "header"),
    "a header of nothing": (with_header(b""), "header"),
    "no JSON": (with_header(b"{"), "header"),
    "no object": (with_header(b"[1]"), "header"),
    "deep": (with_header(b"[" * 60_000), "header"),
    "no metadata": (with_header(b"{}"), "format"),
    "strange metadata": (with_header(b'{"__metadata__": [1]}'), "format"),
    "another format": (with_metadata(format="illo latents 0"), "format"),
    "another recipe": (with_metadata(recipe="0" * 64), "another recipe"),
    "fewer images": (with_metadata(steps="[]"), "steps"),
    "more images": (with_metadata(steps="[2, 2]"), "steps"),
    "too many steps": (with_metadata(steps="[4]"), "steps"),
    "steps below nothing": (with_metadata(steps="[-1]"), "steps"),
    "half a step": (with_metadata(steps="[1.5]"), "steps"),
    "endless steps": (with_metadata(steps="[Infinity]"), "steps"),
    "steps as a truth": (with_metadata(steps="[true]"), "steps"),
    "steps in words": (with_metadata(steps="two"), "steps"),
    "steps as an object": (with_metadata(steps='{"0": 1}'), "steps"),
    "steps too long to read": (with_metadata(steps="[" + "9" * 5000 + "]"), "steps"),
    "steps too deep to read": (with_metadata(steps="[" * 9000), "steps"),
    "not begun": (with_metadata(steps="[0]"), "does not hold"),
    "an image more": (with_tensor("1", torch.clone), "does not hold"),
    "an image less": (lambda content: spoiled(content, lambda _, images: images.clear()), "hold"),
    "doubles": (with_tensor("0", torch.Tensor.double), "image 0 is"),
    "another precision": (
        with_tensor("0", lambda own: own.to(torch.float16)),
        "image 0 is",
    ),
    "a type nobody reads": (renamed_type, "image 0 is"),
    "another shape": (with_tensor("0", lambda own: own[:8].clone()), "image 0 is"),
    "flat": (with_tensor("0", torch.flatten), "image 0 is"),
    "not a number": (with_tensor("0", lambda own: own * float("nan")), "not numbers"),
    "endless": (with_tensor("0", lambda own: own / 0), "not numbers"),
}


@pytest.fixture(scope="module")
def uninterrupted(kontext: Kontext) -> tuple[Drawn, dict[int, bytes]]:
    """A drawing, and its latents after every step."""
    return saves_of(kontext, a_scene())


@pytest.mark.parametrize(("said", "begun_at"), [(2, 2), (None, 2), (1, 0), (3, 0)])
def test_latents_of_another_step_than_the_job_says_are_not_gone_on_from(
    kontext: Kontext, said: int | None, begun_at: int
) -> None:
    kept: dict[int, bytes] = {}
    whole = draw(kontext, SCENE, on_step=lambda step, save: kept.update({step: save()}))
    resumed = draw(kontext, SCENE, resume=kept[2], resume_at=said)
    assert resumed.resumed_at == begun_at
    assert pixels(resumed) == pixels(whole)


@pytest.mark.parametrize(("spoil", "said"), REFUSALS.values(), ids=list(REFUSALS))
def test_what_cannot_be_gone_on_from_is_drawn_from_the_start(
    kontext: Kontext,
    uninterrupted: tuple[Drawn, dict[int, bytes]],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[bytes], bytes],
    said: str,
) -> None:
    whole, kept = uninterrupted
    found = draw(kontext, a_scene(), resume=spoil(kept[1]))
    assert pixels(found) == pixels(whole)
    assert (found.resumed_at, found.denoised) == (0, 2)
    [event] = [each for each in caplog.records if each.message == "checkpoint refused"]
    assert said in event.__dict__["reason"]


@pytest.mark.parametrize(
    "change", [{"prompt": "another"}, {"seed": 8}, {"count": 2}, {"steps": 3}, {"width": 80}]
)
def test_latents_of_another_scene_are_not_taken(
    kontext: Kontext,
    uninterrupted: tuple[Drawn, dict[int, bytes]],
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
) -> None:
    _, kept = uninterrupted
    other = a_scene(**change)
    found = draw(kontext, other, resume=kept[1])
    assert pixels(found) == pixels(draw(kontext, other))
    assert "checkpoint refused" in caplog.text


def test_latents_of_another_precision_are_not_taken(kontext: Kontext, half: Kontext) -> None:
    _, kept = saves_of(half, a_scene())
    assert draw(kontext, a_scene(), resume=kept[1]).resumed_at == 0


@pytest.fixture(scope="module")
def rows(kontext: Kontext) -> list[Row]:
    scene = a_scene(count=2)
    with torch.no_grad():
        encoded = kontext._encoder.encode(scene, picture_of)
        conditions = conditions_of(kontext._pipeline, scene, encoded)
        return [first_row(kontext._pipeline, scene, seed, conditions) for seed in scene.seeds]


RECIPE = recipe_of(a_scene(count=2))


def refuses(rows: list[Row], content: bytes) -> bool:
    """Try to go on; if that is refused, nothing has changed."""
    before = [(row.latents, row.step) for row in rows]
    try:
        restore_latents(rows, content, recipe=RECIPE)
    except CheckpointRefused:
        assert all(
            row.latents is latents and row.step == step
            for row, (latents, step) in zip(rows, before, strict=True)
        )
        return True
    finally:
        for row, (latents, step) in zip(rows, before, strict=True):
            row.latents, row.step = latents, step
    return False


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
tensor_headers = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F64", "F8_E8M0", "F4", "BOOL", 7]),
        "shape": st.lists(st.integers(-2, 2**40), max_size=3) | st.just([16, 64]),
        "data_offsets": st.lists(st.integers(-1, 2**40), max_size=3) | st.just([0, 4096]),
    },
)
headers = st.fixed_dictionaries(
    {
        "__metadata__": st.fixed_dictionaries(
            {
                "format": st.just("illo latents 1") | json_values,
                "recipe": st.just(RECIPE) | json_values,
                "steps": st.sampled_from(["[1, 0]", "[2, 2]", "[0, 0]"]) | json_values,
            }
        )
    },
    optional={"0": tensor_headers | json_values, "1": tensor_headers, "x": json_values},
)


@given(content=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(rows: list[Row], content: bytes) -> None:
    assert refuses(rows, content)
    assert refuses(rows, vouched(content))


@settings(max_examples=150)
@given(header=headers, payload=st.sampled_from([b"", b"\0" * 4096, b"\xff" * 4096, b"1" * 8192]))
def test_an_arbitrary_header_is_refused_or_fits(
    rows: list[Row], header: dict[str, Any], payload: bytes
) -> None:
    text = json.dumps(header).encode()
    taken = not refuses(rows, vouched(struct.pack("<Q", len(text)) + text + payload))
    if taken:
        metadata = header["__metadata__"]
        assert (metadata["format"], metadata["recipe"]) == ("illo latents 1", RECIPE)


@given(at=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(rows: list[Row], at: int, bit: int) -> None:
    moved = [replace(rows[0], step=1), rows[1]]
    content = write_latents(moved, recipe=RECIPE)
    assert not refuses(rows, content)
    at %= len(content)
    assert refuses(rows, content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])


LONG = a_scene(width=96, height=80, steps=4, count=2, references=(a_reference(),))


def draw_elsewhere(
    weights: Path, dtype: torch.dtype, kept: Path, pictures: Path, kill_at: int
) -> None:
    """Draw in this process: from what was kept, if anything, keeping every step up to the kill."""
    start = begin(weights, residency=Residency.RESIDENT, device="cpu", dtype=dtype)
    kontext = Kontext(start, threads=THREADS)

    def keep(step: int, save: Save) -> None:
        kept.write_bytes(save())
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    resume = kept.read_bytes() if kept.exists() else None
    found = draw(kontext, LONG, resume=resume, on_step=keep)
    for number, image in enumerate(found.images):
        image.save(pictures / f"{number} from {found.resumed_at}.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "killed_at"),
    [(torch.float32, 1), (torch.bfloat16, 6)],
    ids=["float32", "bfloat16"],
)
def test_another_process_goes_on_where_one_was_killed(
    tiny: Path, tmp_path: Path, dtype: torch.dtype, killed_at: int
) -> None:
    spawn = multiprocessing.get_context("spawn")

    def exit_code(kept: str, *, kill_at: int = 0) -> int | None:
        arguments = (tiny, dtype, tmp_path / kept, tmp_path, kill_at)
        process = spawn.Process(target=draw_elsewhere, args=arguments)
        process.start()
        process.join(240)
        return process.exitcode

    assert exit_code("killed", kill_at=killed_at) == -signal.SIGKILL
    assert not list(tmp_path.glob("*.png"))
    assert exit_code("killed") == 0
    assert exit_code("never killed") == 0
    for number in range(2):
        resumed = Image.open(tmp_path / f"{number} from {killed_at}.png")
        whole = Image.open(tmp_path / f"{number} from 0.png")
        print(f"farthest {farthest(resumed, whole)}")
        assert farthest(resumed, whole) <= 1  # measured: 0
