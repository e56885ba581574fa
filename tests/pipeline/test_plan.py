"""The plan: the sums it expects of the true sizes, and what it chooses by them."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

from shared.errors import CardTooSmall
from shared.manifest import TEXT_TOKENS
from shared.settings import Residency
from shared.vocabulary import Phase
from tests.pipeline import full_size
from tests.pipeline.live import peak_of
from worker.pipeline.card import measure, plan_for
from worker.pipeline.kontext import Kontext
from worker.pipeline.model_bytes import models_in
from worker.pipeline.peaks import (
    FULL_SIZE,
    UNPACKING_BYTES,
    decoding,
    denoising,
    looking,
    reading,
)
from worker.pipeline.plan import CONTEXT_BYTES, GIB, LargestJob, Memory, ModelBytes, Plan, plan
from worker.pipeline.weights.opening import open_weights
from worker.pipeline.weights.place import LocalPlace

MEGAPIXEL = 1024 * 1024
USUAL = LargestJob(pixels=MEGAPIXEL, references=(MEGAPIXEL,))
# what a worker with default settings must be ready for
LARGEST = LargestJob(pixels=1_600_000, references=(MEGAPIXEL,) * 4, prompts=8)
DOCUMENT = Path(__file__).parents[2] / "docs" / "weights.md"
CLIP_BYTES, VAE_BYTES = map(full_size.number_bytes, (full_size.a_clip(), full_size.a_vae()))


def a_model(transformer: str = "Q8_0", t5: str = "Q8_0") -> ModelBytes:
    return ModelBytes(
        transformer=full_size.transformer_bytes(transformer),
        text_encoder_2=full_size.encoder_bytes(t5),
        text_encoder=CLIP_BYTES,
        vae=VAE_BYTES,
        widths=replace(FULL_SIZE, unpacking=UNPACKING_BYTES[transformer]),
    )


def planned(
    gib: float,
    weights: ModelBytes | None = None,
    *,
    wish: Residency = Residency.AUTO,
    largest: LargestJob = LARGEST,
) -> Plan:
    memory = Memory(bytes=int(gib * GIB))
    return plan(wish, memory=memory, weights=weights or a_model(), largest=largest)


@pytest.mark.parametrize(
    ("size", "gib"),
    [
        (full_size.transformer_bytes("Q8_0"), 11.78),
        (full_size.encoder_bytes("Q8_0"), 4.71),
        (full_size.encoder_bytes("Q5_K"), 3.05),
        (full_size.encoder_bytes("BF16"), 8.87),
        (CLIP_BYTES, 0.23),
        (VAE_BYTES, 0.16),
        (denoising(FULL_SIZE, tokens=USUAL.tokens(TEXT_TOKENS)), 0.86),
        (decoding(FULL_SIZE, pixels=MEGAPIXEL, tiled=False), 1.50),
        (decoding(FULL_SIZE, pixels=MEGAPIXEL, tiled=True), 0.38),
    ],
)
def test_the_true_sizes_are_those_that_are_known(size: int, gib: float) -> None:
    assert size / GIB == pytest.approx(gib, abs=0.01)


# --- what the formulas expect, against layers of the true sizes ----------------------------------


def fits_closely(expected: int, held: int) -> bool:
    """Never too low, and at most 17 MiB or a fiftieth too high."""
    return held <= expected <= max(held * 1.02, held + 17 * 2**20)


@pytest.mark.parametrize("stored_as", ["Q8_0", "Q5_K", "Q5_0"])
@pytest.mark.parametrize(
    ("image", "references", "images"),
    [(256, 0, 1), (4096, 4096, 1), (4096, 4096, 2), (6250, 16384, 1)],
)
def test_a_step_holds_what_its_terms_sum_up_to(
    stored_as: str, image: int, references: int, images: int
) -> None:
    transformer, seen = full_size.a_transformer(stored_as), image + references
    widths = replace(FULL_SIZE, unpacking=UNPACKING_BYTES[stored_as])

    def made(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.bfloat16, device="meta")

    held = peak_of(
        lambda: transformer(
            hidden_states=made(images, seen, 64),
            timestep=made(images),
            guidance=made(images),
            pooled_projections=made(images, 768),
            encoder_hidden_states=made(images, 512, 4096),
            txt_ids=made(512, 3),
            img_ids=made(seen, 3),
            return_dict=False,
        )
    )
    assert fits_closely(denoising(widths, tokens=seen + 512, images=images), held)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "tiled"),
    [
        (256, 256, False),
        (1024, 1024, False),
        (1280, 1248, False),
        (256, 256, True),
        (1024, 640, True),
    ],
)
def test_the_vae_holds_what_its_terms_sum_up_to(height: int, width: int, tiled: bool) -> None:
    vae = full_size.a_vae()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 512, 64
    vae.use_tiling = tiled
    latents = torch.empty(1, 16, height // 8, width // 8, dtype=vae.dtype, device="meta")
    pixels = torch.empty(1, 3, height, width, dtype=vae.dtype, device="meta")
    area = height * width
    given = peak_of(lambda: vae.decode(latents))
    assert fits_closely(decoding(FULL_SIZE, pixels=area, tiled=tiled), given)
    taken = peak_of(lambda: vae.encode(pixels))
    assert fits_closely(looking(FULL_SIZE, pixels=area, tiled=tiled), taken)


@pytest.mark.slow
@pytest.mark.parametrize(("stored_as", "prompts"), [("Q8_0", 1), ("Q8_0", 8), ("Q5_K", 1)])
def test_t5_holds_what_its_terms_sum_up_to(stored_as: str, prompts: int) -> None:
    encoder = full_size.an_encoder(stored_as)
    words = torch.empty(prompts, 512, dtype=torch.long, device="meta")
    held = peak_of(lambda: encoder(words))
    assert fits_closely(reading(FULL_SIZE, prompts=prompts), held)


def test_a_plain_t5_holds_no_more_than_a_packed_one() -> None:
    encoder = full_size.an_encoder(None)
    words = torch.empty(4, 512, dtype=torch.long, device="meta")
    assert peak_of(lambda: encoder(words)) <= reading(FULL_SIZE, prompts=4)


@pytest.mark.parametrize("stored_as", sorted(UNPACKING_BYTES.keys() - {"F16", "F32"}))
def test_unpacking_holds_what_is_known_of_each_type(stored_as: str) -> None:
    packed = full_size.packed_matrix(stored_as, (1024, 1024))
    held = peak_of(lambda: dequantize_gguf_tensor(packed).to(torch.bfloat16))
    assert held == UNPACKING_BYTES[stored_as] * 1024 * 1024


# --- what is chosen ------------------------------------------------------------------------------

CARDS = (8, 12, 16, 22.2, 40, 80)
SETS = (("Q8_0", "Q8_0"), ("Q8_0", "BF16"), ("Q4_K", "Q5_K"))
TOO_SMALL = "too small"


def cell(gib: float, transformer: str, t5: str) -> str:
    try:
        chosen = planned(gib, a_model(transformer, t5))
    except CardTooSmall:
        return TOO_SMALL
    tiles, doubt = (", tiles" if chosen.tiled else ""), ("" if chosen.fits else ", may fail")
    return f"{chosen.residency} {chosen.peak / GIB:.1f}{tiles}{doubt}"


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (8, (TOO_SMALL, TOO_SMALL, "offload 10.2, may fail")),
        (12, (TOO_SMALL, TOO_SMALL, "stream-t5 10.4")),
        (16, ("stream-t5 16.0", "stream-t5 16.0", "resident 13.5")),
        (22.2, ("resident 20.7", "stream-t5 16.0", "resident 13.5")),
        (40, ("resident 20.7", "resident 24.8", "resident 13.5")),
        (80, ("resident 20.7", "resident 24.8", "resident 13.5")),
    ],
)
def test_each_card_gets_its_residency(gib: float, expected: tuple[str, ...]) -> None:
    assert tuple(cell(gib, *each) for each in SETS) == expected
    row = f"| {gib:g} | {' | '.join(expected)} |"
    assert row in DOCUMENT.read_text(), "docs/weights.md has another table"


def test_an_l4_holds_everything_for_a_usual_job() -> None:
    chosen = planned(22.2, largest=USUAL)
    assert (chosen.residency, chosen.tiled, chosen.beside) == (Residency.RESIDENT, False, True)
    assert chosen.reason == "resident: 19.9 of 22.2 GiB at the peak, decoding"
    assert chosen.fits


def test_tiles_are_taken_only_when_memory_asks_for_them() -> None:
    whole = planned(22.2)
    between = (whole.peaks[Phase.DENOISING] + whole.peaks[Phase.DECODING]) / 2 / GIB
    tiled = planned(between)
    assert (whole.tiled, tiled.tiled) == (False, True)
    assert tiled.residency is Residency.RESIDENT
    assert tiled.reason.endswith("GiB at the peak, denoising, the VAE in tiles")


@pytest.mark.parametrize("wish", [Residency.RESIDENT, Residency.STREAM_T5, Residency.OFFLOAD])
def test_a_byte_less_than_the_sum_is_not_enough(wish: Residency) -> None:
    tiled = planned(4, wish=wish)  # tiles take least
    fitting, short = (
        plan(wish, memory=Memory(bytes=size), weights=a_model(), largest=LARGEST)
        for size in (tiled.peak, tiled.peak - 1)
    )
    assert (fitting.fits, short.fits) == (True, False)


@pytest.mark.parametrize(("gib", "tiled"), [(4, True), (19.8, True), (20.4, True), (80, False)])
def test_tiles_are_spared_with_also_where_that_is_not_enough(gib: float, tiled: bool) -> None:
    largest = replace(LARGEST, references=(MEGAPIXEL,) * 5)  # denoising needs more than decoding
    chosen = planned(gib, wish=Residency.RESIDENT, largest=largest)
    assert chosen.peaks[Phase.DENOISING] > chosen.peaks[Phase.DECODING]
    assert chosen.tiled is tiled


@pytest.mark.parametrize("wish", [Residency.RESIDENT, Residency.STREAM_T5, Residency.OFFLOAD])
@pytest.mark.parametrize("gib", [4, 80])
def test_a_wish_is_kept_whether_it_fits_or_not(wish: Residency, gib: float) -> None:
    chosen = planned(gib, wish=wish)
    assert chosen.residency is wish
    assert chosen.fits is (gib == 80)
    assert ("expected to fail" in chosen.reason) is (gib == 4)


@pytest.mark.parametrize("weights", [a_model(), a_model("Q4_K", "BF16")])
def test_a_card_is_refused_only_where_not_even_weights_and_context_fit(weights: ModelBytes) -> None:
    least = min(
        max(weights.text_encoder_2 + weights.text_encoder, weights.transformer) + weights.vae,
        # its two widest layers, of 24 blocks of 4 x 4096 x 4096 + 3 x 4096 x 10240 and the words
        weights.all - weights.text_encoder_2 + round(weights.text_encoder_2 * 0.03644),
    )
    tight = planned((least + CONTEXT_BYTES + 2**21) / GIB, weights)
    assert not tight.fits
    with pytest.raises(CardTooSmall, match="fewer bits"):
        planned((least + CONTEXT_BYTES - 2**21) / GIB, weights)


def test_a_cpu_is_resident_and_nothing_is_counted() -> None:
    chosen = plan(
        Residency.AUTO,
        memory=Memory(bytes=None),
        weights=a_model(),
        largest=replace(USUAL, images=3),
    )
    assert (chosen.residency, chosen.reason) == (Residency.RESIDENT, "resident: cpu")
    assert (chosen.fits, chosen.tiled, chosen.beside) == (True, False, False)
    assert chosen.images == chosen.together(10**9) == 3
    offloaded = plan(Residency.OFFLOAD, memory=Memory(bytes=None), weights=a_model(), largest=USUAL)
    assert offloaded.reason == "offload: cpu"


def test_images_share_the_device_while_their_sum_fits() -> None:
    largest = replace(USUAL, images=8)
    cards = (20, 22.2, 40, 80)
    assert [planned(gib, largest=largest).images for gib in cards] == [1, 3, 8, 8]
    l4 = planned(22.2, largest=largest)
    usual, small = USUAL.tokens(TEXT_TOKENS), 1024 + 512
    assert (l4.together(usual), l4.together(small), l4.together(10**6)) == (3, 8, 1)
    held = l4.peaks[Phase.DENOISING] - denoising(FULL_SIZE, tokens=usual)
    beside = looking(FULL_SIZE, pixels=MEGAPIXEL, tiled=False)
    sums = [held + beside + denoising(FULL_SIZE, tokens=usual, images=n) for n in (3, 4)]
    assert sums[0] <= 22.2 * GIB < sums[1]


def test_the_encoders_compute_beside_only_where_both_fit() -> None:
    whole = planned(80)
    both = whole.peaks[Phase.DENOISING] + looking(FULL_SIZE, pixels=MEGAPIXEL, tiled=False)
    assert planned(both / GIB).beside
    assert not planned((both - 2**20) / GIB).beside
    assert not planned(80, wish=Residency.STREAM_T5).beside


# --- measuring -----------------------------------------------------------------------------------


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.device]:
    def made(
        *, total: float, free: float, reserved: float = 0, fraction: float = 1
    ) -> torch.device:
        told = (int(free * GIB), int(total * GIB))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: told)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: int(reserved * GIB))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: fraction)
        return torch.device("cuda")

    return made


@pytest.mark.parametrize(
    ("card", "gib"),
    [
        ({"total": 22, "free": 21.5}, 22),  # the context is this process's own
        ({"total": 22, "free": 21.9}, 22),
        ({"total": 22, "free": 12}, 12.5),  # somebody else has the rest
        ({"total": 22, "free": 2, "reserved": 19.5}, 22),  # what has been loaded counts as there
        ({"total": 80, "free": 79, "fraction": 0.25}, 20.5),
    ],
)
def test_what_a_process_may_take_is_measured(
    a_card: Callable[..., torch.device], card: dict[str, float], gib: float
) -> None:
    assert measure(a_card(**card)) == Memory(bytes=int(gib * GIB))


def test_a_cpu_is_not_measured() -> None:
    assert measure(torch.device("cpu")) == Memory(bytes=None)


@pytest.mark.parametrize(("total", "level"), [(24.0, logging.INFO), (13.0, logging.WARNING)])
def test_the_sum_is_logged_and_warned_about_where_it_does_not_fit(
    a_card: Callable[..., torch.device],
    caplog: pytest.LogCaptureFixture,
    total: float,
    level: int,
) -> None:
    device = a_card(total=total, free=total)
    with caplog.at_level(logging.INFO):
        chosen = plan_for(device, Residency.AUTO, models=a_model(), largest=LARGEST)
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (level, "residency planned")
    said = vars(record)
    assert (said["residency"], said["wish"]) == (chosen.residency.value, "auto")
    assert said["reason"] == chosen.reason
    assert said["decoding_gib"] == round(chosen.peaks[Phase.DECODING] / GIB, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_summed_up_as_they_are_loaded(
    tiny: Path, load: Callable[..., Kontext], dtype: torch.dtype
) -> None:
    opened, _ = open_weights(LocalPlace(tiny))
    models = models_in(opened, element_bytes=dtype.itemsize)
    pipeline = load(dtype=dtype)._pipeline
    for name in ("transformer", "text_encoder_2", "text_encoder", "vae"):
        parameters = getattr(pipeline, name).parameters()
        assert getattr(models, name) == sum(each.nbytes for each in parameters), name


def test_widths_are_read_from_the_configs(tiny: Path) -> None:
    opened, _ = open_weights(LocalPlace(tiny))
    widths = models_in(opened, element_bytes=2).widths
    assert (widths.vae, widths.flux.inner, widths.t5.width) == ((8, 8, 8, 8), 64, 64)
    # img_in is BF16, which takes 8 bytes an element, but it is small
    assert widths.unpacking == UNPACKING_BYTES["Q8_0"]
