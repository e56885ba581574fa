"""How many bytes the models' activations take at their peaks, term by term from the shapes.

Every term is a tensor that is alive at that moment, as the layers are written: attention never
writes its scores out, a product needs its whole unpacked matrix. The tests let layers of the true
sizes run without numbers, add up what they hold at once, and compare.
"""

from dataclasses import dataclass

from shared.manifest import TEXT_TOKENS
from worker.pipeline.weights.flux_shapes import MLP_RATIO, FluxSizes
from worker.pipeline.weights.t5_names import T5Sizes

FLOAT_BYTES = 4
PATCH_PIXELS = 16 * 16  # one token of an image: the VAE divides by 8, patches by 2
TILE_SIDE = 512  # pixels; diffusers' own default for this VAE is 1024, which tiles nothing usual
TILE_PIXELS = TILE_SIDE * TILE_SIDE
PROMPTS_TOGETHER = 8  # more would gain little and take T5's activations once more each
SMALL_BYTES = 2**20  # vectors, positions and the like
T5_SLICE_BYTES = 16 * 2**20  # PackedLinear unpacks 2^20 elements at once, through float32

# What diffusers holds for each element of a matrix while it unpacks it: float16 and the compute
# type at the end, and for types whose bits are spread out more than that in between.
UNPACKING_BYTES = {
    "Q8_0": 4.0, "Q4_0": 4.0, "Q4_1": 5.0, "Q6_K": 5.125, "Q4_K": 5.1875, "Q2_K": 5.25,
    "Q3_K": 5.3125, "Q5_K": 7.1875, "BF16": 8.0, "Q5_0": 10.0, "Q5_1": 10.0, "IQ4_NL": 12.0,
    "IQ4_XS": 12.21875, "F16": 2.0, "F32": 2.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """What decides the size of activations; `element_bytes` is the compute type's."""

    flux: FluxSizes
    t5: T5Sizes
    vae: tuple[int, ...]  # channels of its levels, the one with the most pixels first
    element_bytes: int
    unpacking: float  # of the transformer's matrices, from UNPACKING_BYTES
    text_tokens: int = TEXT_TOKENS


FULL_SIZE = Widths(
    flux=FluxSizes(
        in_channels=64,
        out_channels=64,
        double_blocks=19,
        single_blocks=38,
        heads=24,
        head_channels=128,
        text_channels=4096,
        pooled_channels=768,
        guidance=True,
    ),
    t5=T5Sizes(words=32128, width=4096, wide=10240, heads=64, head_width=64, layers=24, buckets=32),
    vae=(128, 256, 512, 512),
    element_bytes=2,
    unpacking=UNPACKING_BYTES["Q8_0"],
)


def tokens_of(pixels: int) -> int:
    """Count the tokens of an image of so many pixels."""
    return -(-pixels // PATCH_PIXELS)


def denoising(widths: Widths, *, tokens: int, images: int = 1) -> int:
    """Sum up a step over so many tokens (text, image and references) of each of some images.

    The peak is in a single block, in one of two places: where the queries are turned by their
    positions in float32, or, over few tokens, where the matrix behind the feed-forward is unpacked.
    Over very few it is where the double blocks unpack that of their modulation.
    """
    inner, one = widths.flux.inner, widths.element_bytes
    row = tokens * images * inner
    mlp = MLP_RATIO
    # what every single block holds: its input, the same joined with the text, and that normed
    held = 3
    qkv, half_turned, attended = 3, 1, 1
    # the float32 of a query, of its turned half, and of a product
    turning = row * ((held + mlp + qkv + half_turned) * one + 3 * FLOAT_BYTES)
    # attention and feed-forward, and both joined, before the matrix that takes them
    joining = row * 2 * (attended + mlp) * one + row * held * one
    joining += _unpacked(widths, inner * (1 + mlp) * inner)
    modulating = row * held * one + _unpacked(widths, 6 * inner * inner)
    words = widths.text_tokens * widths.flux.text_channels
    given = images * (words + tokens * widths.flux.in_channels)
    # a cosine and a sine for each position, the same for all images
    positions = tokens * widths.flux.head_channels * 2 * FLOAT_BYTES
    return SMALL_BYTES + given * one + positions + max(turning, joining, modulating)


def reading(widths: Widths, *, prompts: int = 1) -> int:
    """Sum up T5 over some prompts; it unpacks a matrix by slices."""
    t5, one, length = widths.t5, widths.element_bytes, widths.text_tokens
    # gate, value and their product; beside them the stream, normed, and what attention kept
    words = prompts * length * (3 * t5.wide + 5 * t5.width) * one
    positions = t5.heads * length * length * one
    return words + positions + t5.wide * t5.width * one + T5_SLICE_BYTES


def looking(widths: Widths, *, pixels: int, tiled: bool) -> int:
    """Sum up the VAE's encoding of one reference: five tensors of its first level at once."""
    at_once = 5 * widths.vae[0] * _at_once(pixels, tiled)
    # the picture, and the latents of the tiles that are ready: two of 16 channels for 64 pixels
    beside = (3 + tiled) * pixels
    return SMALL_BYTES + (at_once + beside) * widths.element_bytes


def decoding(widths: Widths, *, pixels: int, tiled: bool) -> int:
    """Sum up the VAE's decoding of one image: its last level takes twice the channels it gives."""
    channels = max(3 * widths.vae[min(1, len(widths.vae) - 1)], 5 * widths.vae[0])
    at_once = channels * _at_once(pixels, tiled)
    # tiles that are ready overlap by a quarter on each side: 1.8 pictures of three channels
    beside = 2 * 3 * pixels if tiled else pixels // 4
    return SMALL_BYTES + (at_once + beside) * widths.element_bytes


def _unpacked(widths: Widths, elements: int) -> int:
    return round(elements * widths.unpacking)


def _at_once(pixels: int, tiled: bool) -> int:
    return min(pixels, TILE_PIXELS) if tiled else pixels
