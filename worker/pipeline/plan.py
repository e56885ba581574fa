"""Choose where the models lie from the memory there is, the weights and the largest job."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import CardTooSmall
from shared.settings import Residency
from shared.vocabulary import Phase
from worker.pipeline.peaks import (
    FULL_SIZE,
    Widths,
    decoding,
    denoising,
    looking,
    reading,
    tokens_of,
)

GIB = 2**30
# The device's context with the kernels in it, which every process has.
CONTEXT_BYTES = GIB // 2
# What the libraries take to compute in, and what an allocator cannot hand out for being in pieces.
SLACK_BYTES = GIB
_EVERYWHERE = (Residency.RESIDENT, Residency.STREAM_T5, Residency.OFFLOAD)
_REMEDY = "lower ILLO_MAX_PIXELS, or take weights with fewer bits (docs/weights.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What this process may take of its device, its context included; a CPU's is not counted."""

    bytes: int | None

    def holds(self, size: int) -> bool:
        """Whether so many bytes fit."""
        return self.bytes is None or size <= self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBytes:
    """What each model takes on the device: packed as it lies, or plain in the compute type."""

    transformer: int
    text_encoder_2: int
    text_encoder: int
    vae: int
    widths: Widths = FULL_SIZE

    @property
    def all(self) -> int:
        """All four at once."""
        return self.transformer + self.text_encoder_2 + self.text_encoder + self.vae


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestJob:
    """The most that is asked for at once; `references` are their areas as the VAE sees them."""

    pixels: int
    references: tuple[int, ...]
    prompts: int = 1  # encoded together
    images: int = 1  # that may share the device's steps

    def tokens(self, text_tokens: int) -> int:
        """What the transformer sees of one image in a step, so many of them for the text."""
        return sum(map(tokens_of, (self.pixels, *self.references)), start=text_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where the models lie, and the sum that this was chosen by; `reason` says it in words."""

    residency: Residency
    tiled: bool  # whether the VAE works in tiles
    beside: bool  # whether the encoders may compute while the transformer does
    images: int  # of the largest size, that may share the device's steps
    peaks: Mapping[Phase, int]  # expected, of the largest job
    memory: Memory
    fits: bool
    reason: str
    room: int | None  # for activations while denoising; None where memory is not counted
    widths: Widths
    most: int

    @property
    def peak(self) -> int:
        """The largest of the phases' sums."""
        return max(self.peaks.values())

    def together(self, tokens: int) -> int:
        """Tell how many images of so many tokens may share the device's steps; at least one."""
        return _together(self.widths, tokens, room=self.room, most=self.most)


def plan(wish: Residency, *, memory: Memory, weights: ModelBytes, largest: LargestJob) -> Plan:
    """Take the first residency, and only then tiles, whose expected peak fits into the memory.

    A wish other than `auto` is kept, whether it fits or not. If nothing fits, the largest job is
    expected to fail, but smaller ones may not: the plan is then the one that lacks least. Raises
    CardTooSmall if, left to choose, not even weights and context fit.
    """
    plans = [
        _summed(residency, tiled, memory, weights, largest)
        for residency in (_EVERYWHERE if wish is Residency.AUTO else (wish,))
        for tiled in (False, True)
    ]
    for each in plans:
        if each.fits:
            return each
    if wish is Residency.AUTO:
        _refuse_what_cannot_be(memory, weights)
    return min(plans, key=_lacking)


def lying(residency: Residency, weights: ModelBytes) -> dict[Phase, int]:
    """Sum up the weights that are on the device in each phase."""
    if residency is Residency.RESIDENT:
        return dict.fromkeys((Phase.ENCODING, Phase.DENOISING, Phase.DECODING), weights.all)
    if residency is Residency.STREAM_T5:
        rest = weights.all - weights.text_encoder_2
        window = _window(weights)
        return {Phase.ENCODING: rest + window, Phase.DENOISING: rest, Phase.DECODING: rest}
    # accelerate evicts a model when the next in its chain begins; the VAE, which encodes before
    # its turn, stays beside those of the text and then beside the transformer
    encoders = weights.text_encoder_2 + weights.text_encoder + weights.vae
    return {
        Phase.ENCODING: encoders,
        Phase.DENOISING: weights.transformer + weights.vae,
        Phase.DECODING: weights.vae,
    }


def _summed(
    residency: Residency, tiled: bool, memory: Memory, weights: ModelBytes, largest: LargestJob
) -> Plan:
    widths, held, there = weights.widths, lying(residency, weights), memory.bytes
    encoding, tokens = _encoding(widths, largest, tiled=tiled), largest.tokens(widths.text_tokens)
    activations = {
        Phase.ENCODING: encoding,
        Phase.DENOISING: denoising(widths, tokens=tokens),
        Phase.DECODING: decoding(widths, pixels=largest.pixels, tiled=tiled),
    }
    fixed = CONTEXT_BYTES + SLACK_BYTES
    peaks = {phase: fixed + held[phase] + activations[phase] for phase in held}
    # on a CPU both would share the same cores
    beside = residency is Residency.RESIDENT and there is not None
    beside = beside and memory.holds(peaks[Phase.DENOISING] + encoding)
    taken = fixed + held[Phase.DENOISING] + (encoding if beside else 0)
    room = None if there is None else there - taken
    fits = memory.holds(max(peaks.values()))
    return Plan(
        residency=residency,
        tiled=tiled,
        beside=beside,
        images=_together(widths, tokens, room=room, most=largest.images),
        peaks=peaks,
        memory=memory,
        fits=fits,
        reason=_reason(residency, tiled, peaks, memory, fits=fits),
        room=room,
        widths=widths,
        most=largest.images,
    )


def _lacking(planned: Plan) -> tuple[int, int]:
    """Order plans that do not fit: first by what all phases lack together, then by the peak."""
    there = planned.memory.bytes or 0
    return sum(max(0, peak - there) for peak in planned.peaks.values()), planned.peak


def _encoding(widths: Widths, largest: LargestJob, *, tiled: bool) -> int:
    """Sum up the larger of T5 and the VAE's first half: they take turns."""
    read = reading(widths, prompts=largest.prompts)
    areas = largest.references
    return max(read, *(looking(widths, pixels=area, tiled=tiled) for area in areas), 0)


def _window(weights: ModelBytes) -> int:
    """Two of T5's layers: while one computes, the next is on its way; the largest are these."""
    sizes = weights.widths.t5
    blocks = sizes.layers * (4 * sizes.inner + 3 * sizes.wide) * sizes.width
    embedding, widest = sizes.words * sizes.width, sizes.wide * sizes.width
    return weights.text_encoder_2 * (embedding + widest) // (blocks + embedding)


def _together(widths: Widths, tokens: int, *, room: int | None, most: int) -> int:
    images = 1
    while images < most and (
        room is None or denoising(widths, tokens=tokens, images=images + 1) <= room
    ):
        images += 1
    return images


def _refuse_what_cannot_be(memory: Memory, weights: ModelBytes) -> None:
    least = min(max(lying(each, weights).values()) for each in _EVERYWHERE) + CONTEXT_BYTES
    if not memory.holds(least):
        raise CardTooSmall(
            f"the device has {_gib(memory.bytes)} GiB, and these weights take {_gib(least)} GiB "
            "with nothing drawn yet, even one model at a time; take weights with fewer bits "
            "(docs/weights.md) or a larger device"
        )


def _reason(
    residency: Residency, tiled: bool, peaks: Mapping[Phase, int], memory: Memory, *, fits: bool
) -> str:
    if memory.bytes is None:
        return f"{residency}: cpu"
    at = max(peaks, key=lambda phase: peaks[phase])
    summed = f"{_gib(peaks[at])} of {_gib(memory.bytes)} GiB at the peak, {at}"
    tiles = ", the VAE in tiles" if tiled else ""
    more = "" if fits else f"; the largest job is expected to fail: {_REMEDY}"
    return f"{residency}: {summed}{tiles}{more}"


def _gib(size: int | None) -> str:
    return f"{(size or 0) / GIB:.1f}"
