"""What a step must cost at least: its arithmetic over what the card can do."""

import time
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.gpu.bench import synchronize
from worker.pipeline.weights.flux_shapes import MLP_RATIO, FluxSizes

TEXT_TOKENS = 512
PATCH_SIDE = 16  # pixels; a patch of the picture is one token
# Dense bf16 products with float32 sums, in TFLOP a second, as the cards' data sheets have it.
# The first name that is part of the card's own counts, so the special ones come first.
PEAKS = {
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}
WARM_UPS, REPEATS = 3, 20
TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Floating-point operations of one step: of the linear layers, and of attention."""

    linear: float
    attention: float

    @property
    def all(self) -> float:
        """Both."""
        return self.linear + self.attention


def step_work(sizes: FluxSizes, *, pixels: int, reference_pixels: int, images: int = 1) -> Work:
    """Count the multiplications and additions of one step over some images of one size.

    The few that see one vector per step instead of every token are left out: the modulation's and
    the embeddings' are a thousandth.
    """
    tokens = TEXT_TOKENS + (pixels + reference_pixels) // PATCH_SIDE**2
    blocks = sizes.double_blocks + sizes.single_blocks
    # in either kind of block a token passes queries, keys, values and output, and the two
    # matrices of its feed-forward
    weights = (4 + 2 * MLP_RATIO) * sizes.inner**2
    return Work(
        linear=2.0 * images * blocks * tokens * weights,
        attention=4.0 * images * blocks * tokens**2 * sizes.inner,
    )


def peak_of(card: str) -> float | None:
    """Look up what a card can do at most; None for one that is not in the table."""
    return next((peak for name, peak in PEAKS.items() if name in card), None)


def matmul_rate(device: str, dtype: torch.dtype, *, side: int) -> float:
    """Measure square products of random numbers, in TFLOP a second."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = _seconds(device, lambda: one @ other)
    return 2 * side**3 / seconds / TERA


def attention_rate(device: str, dtype: torch.dtype, *, sizes: FluxSizes, tokens: int) -> float:
    """Measure attention as a block has it, in TFLOP a second."""
    shape = (1, sizes.heads, tokens, sizes.head_channels)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    seconds = _seconds(device, lambda: functional.scaled_dot_product_attention(query, key, value))
    return 4 * tokens**2 * sizes.inner / seconds / TERA


def _seconds(device: str, act: object) -> float:
    assert callable(act)
    for _ in range(WARM_UPS):
        act()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        act()
    synchronize(device)
    return (time.perf_counter() - began) / REPEATS
