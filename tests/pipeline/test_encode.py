"""Nothing is encoded twice: what is remembered, how much of it, and by which threads."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image

from shared.errors import ReferenceDamaged
from shared.scenes import Reference
from tests.pipeline.drawings import (
    a_drawing,
    a_reference,
    a_scene,
    draw,
    drawn,
    in_advance,
    picture_of,
    pixels,
)
from worker.drawing import Ahead
from worker.pipeline.encode import Encoder
from worker.pipeline.kontext import Kontext
from worker.pipeline.remembered import Remembered

pytestmark = pytest.mark.slow

FOX, MIA, OWL = (a_scene(prompt=prompt) for prompt in ("A fox", "Mia hides", "An owl, awake"))
CRIMSON, NAVY = a_reference("crimson"), a_reference("navy", 64, 80)


class Counted:
    """How many rows each forward of an encoder took."""

    def __init__(self) -> None:
        self.prompts: list[int] = []
        self.pictures: list[int] = []


@pytest.fixture
def counted(kontext: Kontext, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """Count the forwards of T5 and of the VAE's first half; nothing is remembered at first."""
    counted, pipeline = Counted(), kontext._pipeline
    read, look = pipeline.text_encoder_2.forward, pipeline.vae.encode

    def reading(ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        counted.prompts.append(len(ids))
        return read(ids, *rest, **options)

    def looking(seen: torch.Tensor, *rest: Any, **options: Any) -> Any:
        counted.pictures.append(len(seen))
        return look(seen, *rest, **options)

    monkeypatch.setattr(pipeline.text_encoder_2, "forward", reading)
    monkeypatch.setattr(pipeline.vae, "encode", looking)
    monkeypatch.setattr(kontext, "_encoder", Encoder(pipeline))
    return counted


def test_a_prompt_and_its_reference_are_encoded_once_for_many_jobs(
    kontext: Kontext, counted: Counted
) -> None:
    scene = a_scene(references=(CRIMSON,), count=2)
    taken = [draw(kontext, replace(scene, seed=seed)).remembered for seed in range(3)]
    assert (counted.prompts, counted.pictures) == ([1], [1])
    assert taken == [0, 2, 2]


def test_a_reference_is_read_only_for_what_is_not_remembered(
    kontext: Kontext, counted: Counted
) -> None:
    read: list[str] = []

    def reading(reference: Reference) -> Image.Image:
        read.append(reference.asset)
        return picture_of(reference)

    for references in ((CRIMSON,), (CRIMSON, NAVY), (NAVY, CRIMSON)):
        draw(kontext, a_scene(references=references), read=reading)
    assert read == ["crimson", "navy"]


def test_what_is_remembered_draws_the_same_bytes(kontext: Kontext, counted: Counted) -> None:
    scene = a_scene(references=(CRIMSON, NAVY))
    first, second = draw(kontext, scene), draw(kontext, scene)
    assert (first.remembered, second.remembered) == (0, 3)
    assert pixels(first) == pixels(second)


def test_the_same_picture_under_another_name_is_not_encoded_again(
    kontext: Kontext, counted: Counted
) -> None:
    uploaded_again = replace(CRIMSON, asset="crimson", artifact="assets/other", generation=9)
    draw(kontext, a_scene(references=(CRIMSON,)))
    draw(kontext, a_scene(references=(uploaded_again,)))
    assert counted.pictures == [1]


def test_prompts_of_due_jobs_are_encoded_in_one_forward(kontext: Kontext, counted: Counted) -> None:
    found = kontext.draw([a_drawing(FOX)], ahead=in_advance(MIA, FOX, OWL))
    assert counted.prompts == [3]
    for scene in (MIA, OWL):
        assert draw(kontext, scene).remembered == 1
    assert counted.prompts == [3]
    assert drawn(found[0]).remembered == 0


def test_at_most_eight_prompts_share_a_forward(kontext: Kontext, counted: Counted) -> None:
    kontext._encoder.encode_prompts(str(number) for number in range(19))
    assert counted.prompts == [8, 8, 3]


def test_a_drawing_that_was_canceled_before_it_began_is_not_encoded(
    kontext: Kontext, counted: Counted
) -> None:
    def cancel(*_: object) -> None:
        raise KeyError("canceled")

    kontext.draw([a_drawing(FOX, on_progress=cancel), a_drawing(MIA)])
    assert counted.prompts == [1]
    assert FOX.prompt not in kontext._encoder.prompts


# what two encoders may differ by: docs/weights.md
TOGETHER = {"kontext": 2e-6, "half": 2e-2}


@pytest.mark.parametrize("name", list(TOGETHER))
def test_prompts_encoded_together_are_those_encoded_alone(
    request: pytest.FixtureRequest, name: str
) -> None:
    kontext: Kontext = request.getfixturevalue(name)
    several, single = Encoder(kontext._pipeline), Encoder(kontext._pipeline)
    scenes = [FOX, MIA, OWL, a_scene(prompt="word " * 600), a_scene(prompt="")]
    with torch.no_grad():
        several.encode_prompts(scene.prompt for scene in scenes)
        for scene in scenes:
            together, alone = (each.encode(scene, picture_of) for each in (several, single))
            for one, other in ((together.prompt, alone.prompt), (together.pooled, alone.pooled)):
                apart = (one - other).abs().max().item()
                print(f"{apart:.1e} of {other.abs().max():.1f}")
                assert apart <= TOGETHER[name] * other.abs().max()


def test_what_is_kept_is_no_part_of_something_larger(kontext: Kontext, counted: Counted) -> None:
    encoder = kontext._encoder
    with torch.no_grad():
        encoder.encode_prompts([FOX.prompt, MIA.prompt])
        encoder.encode(a_scene(references=(CRIMSON,)), picture_of)
    read = encoder.prompts.get(FOX.prompt)
    looked_at = encoder.references.get(CRIMSON.sha256)
    assert read is not None
    assert looked_at is not None
    for tensor in (*read, *looked_at):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def numbers(count: int) -> tuple[torch.Tensor, ...]:
    return (torch.arange(count, dtype=torch.float32),)


def test_it_keeps_as_many_bytes_as_it_may_and_no_more() -> None:
    memory = Remembered[str](800)
    memory.put("a", numbers(100))
    memory.put("b", numbers(100))
    assert ("a" in memory, "b" in memory, memory.bytes) == (True, True, 800)
    memory.put("c", numbers(1))
    assert ("a" in memory, "b" in memory, memory.bytes) == (False, True, 404)


def test_what_is_larger_than_all_of_it_is_not_kept_and_drives_nothing_out() -> None:
    memory = Remembered[str](400)
    memory.put("a", numbers(50))
    memory.put("b", numbers(101))
    assert ("a" in memory, "b" in memory, memory.bytes) == (True, False, 200)
    memory.put("b", numbers(100))
    assert ("a" in memory, "b" in memory, memory.bytes) == (False, True, 400)


def test_what_was_used_longest_ago_goes_first() -> None:
    memory = Remembered[str](1200)
    for key in "abc":
        memory.put(key, numbers(100))
    memory.get("a")
    memory.put("d", numbers(100))
    assert [key in memory for key in "abcd"] == [True, False, True, True]


def test_looking_whether_it_is_there_is_no_use_and_is_not_counted() -> None:
    memory = Remembered[str](800)
    for key in "ab":
        memory.put(key, numbers(100))
    assert "a" in memory
    assert (memory.hits, memory.misses) == (0, 0)
    memory.put("c", numbers(100))
    assert "a" not in memory
    assert memory.get("a") is None
    assert memory.get("b") is not None
    assert (memory.hits, memory.misses) == (1, 1)


def test_putting_again_counts_its_bytes_once() -> None:
    memory = Remembered[str](800)
    memory.put("a", numbers(100))
    memory.put("a", numbers(50))
    assert memory.bytes == 200
    memory.forget("a")
    memory.forget("a")
    assert memory.bytes == 0


def test_what_is_kept_does_not_change_with_what_was_put() -> None:
    memory = Remembered[str](800)
    value = numbers(4)
    memory.put("a", value)
    value[0].zero_()
    [kept] = memory.get("a") or ()
    assert kept.tolist() == [0, 1, 2, 3]


def test_a_memory_too_small_for_a_reference_still_draws_it(
    kontext: Kontext, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = a_scene(references=(CRIMSON, NAVY))
    expected = draw(kontext, scene)
    forgetful = Encoder(kontext._pipeline, prompt_bytes=0, reference_bytes=0)
    monkeypatch.setattr(kontext, "_encoder", forgetful)
    for _ in range(2):
        found = draw(kontext, scene)
        assert pixels(found) == pixels(expected)
        assert found.remembered == 0
    assert (forgetful.prompts.bytes, forgetful.references.bytes) == (0, 0)


def at_once(works: list[Callable[[], None]]) -> None:
    """Begin all works at the same moment, and wait for them."""
    barrier = threading.Barrier(len(works))
    failed: list[BaseException] = []

    def begin(work: Callable[[], None]) -> None:
        barrier.wait(60)
        try:
            with torch.no_grad():
                work()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=begin, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed


def test_threads_that_want_the_same_encode_it_once(kontext: Kontext, counted: Counted) -> None:
    scene, encoder = a_scene(references=(CRIMSON,)), kontext._encoder
    reading = threading.Barrier(3)

    def read(reference: Reference) -> Image.Image:
        reading.wait(60)  # all three have found that it is not remembered
        return picture_of(reference)

    found: list[torch.Tensor] = []
    works = [lambda: found.append(encoder.encode(scene, read).references[0])] * 3
    at_once([*works])
    assert (counted.prompts, counted.pictures) == ([1], [1])
    assert all(torch.equal(each, found[0]) for each in found)


def test_threads_that_want_many_prompts_encode_each_of_them_once(
    kontext: Kontext, counted: Counted
) -> None:
    prompts = [f"scene {number}" for number in range(12)]
    encoder = kontext._encoder
    orders = prompts, prompts[::-1]
    at_once([partial(encoder.encode_prompts, order) for order in orders])
    assert sum(counted.prompts) == 12


def test_threads_may_put_get_and_forget_at_once() -> None:
    memory = Remembered[int](40 * 100)

    def use() -> None:
        for number in range(2000):
            memory.put(number % 17, numbers(100))
            memory.get((number * 7) % 17)
            memory.forget((number * 5) % 17)

    at_once([use] * 4)
    assert memory.bytes == sum(400 for key in range(17) if key in memory) <= 4000


@pytest.fixture
def beside(kontext: Kontext, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> Kontext:
    """The pipeline, encoding beside the drawing as it does on a GPU that holds all models."""
    monkeypatch.setattr(Kontext, "_encodes_beside", True)
    monkeypatch.setattr(kontext, "_beside", None)
    return kontext


def ended(kontext: Kontext) -> None:
    """Wait for what is encoded beside."""
    assert kontext._beside is not None
    kontext._beside.join(60)
    assert not kontext._beside.is_alive()


def test_what_is_made_ready_beside_a_drawing_changes_no_byte(
    kontext: Kontext, counted: Counted, beside: Kontext
) -> None:
    soon = replace(OWL, references=(NAVY,), seed=5)
    expected = [pixels(draw(kontext, scene)) for scene in (FOX, soon)]
    kontext._encoder = Encoder(kontext._pipeline)
    counted.prompts.clear()
    stepping = threading.Event()

    def read(reference: Reference) -> Image.Image:
        assert stepping.wait(60)  # the reference is encoded while the transformer computes
        return picture_of(reference)

    [found] = beside.draw(
        [a_drawing(FOX, on_step=lambda *_: stepping.set())],
        ahead=[Ahead(scene=soon, read=read), *in_advance(MIA)],
    )
    ended(beside)
    assert counted.prompts == [1, 2]
    later = draw(beside, soon)
    assert later.remembered == 2
    assert [pixels(found), pixels(later)] == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [ReferenceDamaged("gone"), KeyError("unforeseen")])
def test_a_reference_that_cannot_be_read_beside_harms_nothing(
    beside: Kontext, error: Exception
) -> None:
    def fail(reference: Reference) -> Image.Image:
        raise error

    soon = replace(MIA, references=(CRIMSON,))
    [found] = beside.draw([a_drawing(FOX)], ahead=[Ahead(scene=soon, read=fail)])
    ended(beside)
    assert pixels(found) == pixels(draw(beside, FOX))
    assert draw(beside, soon).remembered == 1  # its prompt was encoded, and it reads for itself


def test_what_comes_after_a_damaged_reference_is_made_ready(beside: Kontext) -> None:
    def fail(reference: Reference) -> Image.Image:
        raise ReferenceDamaged("gone")

    damaged = Ahead(scene=replace(MIA, references=(CRIMSON,)), read=fail)
    fine = replace(OWL, references=(NAVY,))
    beside.draw([a_drawing(FOX)], ahead=[damaged, *in_advance(fine)])
    ended(beside)
    assert draw(beside, fine).remembered == 2


def test_no_memory_for_what_is_made_ready_is_told_and_harms_nothing(
    beside: Kontext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = draw(beside, FOX)

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(beside._pipeline.text_encoder_2, "forward", fail)
        [found] = beside.draw([a_drawing(FOX)], ahead=in_advance(MIA))
        ended(beside)
    assert pixels(found) == pixels(expected)
    assert "nothing made ready" in caplog.text
    assert not beside._pipeline.vae.use_tiling  # the drawing itself had room
    assert draw(beside, MIA).remembered == 0


def test_nothing_is_made_ready_once_the_models_are_offloaded(
    kontext: Kontext, counted: Counted
) -> None:
    resident = [True, False]

    def read(reference: Reference) -> Image.Image:
        pytest.fail("it may come from far away, and nobody needs it")

    soon = [Ahead(scene=replace(MIA, references=(CRIMSON,)), read=read)]
    kontext._encoder.make_ready(soon, wanted=lambda: resident.pop(0))
    assert (counted.prompts, counted.pictures) == ([1], [])


def test_one_that_still_waits_for_a_reference_is_not_joined_by_another(beside: Kontext) -> None:
    far_away = threading.Event()

    def read(reference: Reference) -> Image.Image:
        assert far_away.wait(60)
        return picture_of(reference)

    soon = [Ahead(scene=replace(MIA, references=(CRIMSON,)), read=read)]
    beside.draw([a_drawing(FOX)], ahead=soon)
    first = beside._beside
    beside.draw([a_drawing(FOX)], ahead=soon)
    assert beside._beside is first
    far_away.set()
    ended(beside)
