"""How much of a prompt is read is what the weights were trained with: their manifest says it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.manifest import TEXT_TOKENS, read_manifest, write_manifest
from tests.pipeline.conftest import THREADS
from tests.pipeline.drawings import a_scene, draw, pixels
from worker.pipeline.kontext import Kontext
from worker.pipeline.peaks import FULL_SIZE, denoising, reading
from worker.pipeline.plan import LargestJob
from worker.pipeline.start import begin
from worker.pipeline.tiny import make_tiny_weights

SHORT = 24


def loaded(directory: Path, text_tokens: int) -> Kontext:
    make_tiny_weights(directory)
    write_manifest(directory, replace(read_manifest(directory), text_tokens=text_tokens))
    return Kontext(begin(directory, device="cpu"), threads=THREADS)


def lengths_read(kontext: Kontext, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    lengths: list[int] = []
    read = kontext._pipeline.text_encoder_2.forward

    def reading(ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        lengths.append(ids.shape[1])
        return read(ids, *rest, **options)

    monkeypatch.setattr(kontext._pipeline.text_encoder_2, "forward", reading)
    return lengths


@pytest.mark.slow
@pytest.mark.parametrize("count", [SHORT, TEXT_TOKENS])
def test_a_worker_reads_as_many_text_tokens_as_the_manifest_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    kontext = loaded(tmp_path / "tiny", count)
    lengths = lengths_read(kontext, monkeypatch)
    draw(kontext, a_scene())
    assert lengths == [count]
    assert kontext.plan.widths.text_tokens == count


@pytest.mark.slow
def test_fewer_text_tokens_draw_another_picture(tmp_path: Path) -> None:
    drawn = [
        pixels(draw(loaded(tmp_path / str(count), count), a_scene()))
        for count in (SHORT, TEXT_TOKENS)
    ]
    assert drawn[0] != drawn[1]


@pytest.mark.slow
def test_a_drawing_tells_how_much_of_its_prompt_was_not_read(tmp_path: Path) -> None:
    kontext = loaded(tmp_path / "tiny", SHORT)
    tokens = len(kontext._pipeline.tokenizer_2("a" * 10).input_ids)
    whole = "a" * (10 + SHORT - tokens)  # each letter is a token
    for prompt, unread in ((whole, 0), (whole + "a", 1), (whole + "aaa", 3), (whole + "aaa", 3)):
        assert draw(kontext, a_scene(prompt=prompt)).unread_tokens == unread


def test_fewer_text_tokens_take_less_memory() -> None:
    short = replace(FULL_SIZE, text_tokens=SHORT)
    job = LargestJob(pixels=1024 * 1024, references=(1024 * 1024,))
    counts = [job.tokens(each.text_tokens) for each in (short, FULL_SIZE)]
    assert counts == [8192 + SHORT, 8192 + TEXT_TOKENS]
    assert reading(short) < reading(FULL_SIZE)
    assert denoising(short, tokens=counts[0]) < denoising(FULL_SIZE, tokens=counts[1])
