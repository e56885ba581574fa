"""Random numbers for the tiny weights, scaled so that prompt, seed and reference all show.

Plain random weights draw noise in one colour. These lean on four sketches: the transformer's way
in and out undo each other, so that it removes the noise it is given; attention leans on position,
so that words make regions; only the means of 2 x 2 patches are drawn on, so that regions are soft;
the VAE blurs as it enlarges. Everything else is chance.
"""

import math
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from worker.pipeline.tiny_shapes import LATENT_CHANNELS, TRANSFORMER
from worker.pipeline.weights.flux_shapes import Shapes

Array = npt.NDArray[np.float64]
Rule = Callable[[str, tuple[int, ...], np.random.Generator], Array]

# Chosen by looking at sheets of 4 prompts x 2 seeds x with and without a reference x 3 sizes.
DENOISING = 3.0  # less leaves noise, more overshoots in four steps
SHARPNESS = 2.2  # of attention: less turns all words into one colour
MODULATION = 0.5
WRITING = 1.2  # how strongly attention paints
FEED_FORWARD = 0.1  # works on each patch alone, which looks like noise
WORDS = 4.0  # how much a word's own content decides where it is painted
PATCHES = 0.4  # the same of the noise and of the reference
CHANCE_IN_VAE = 0.15
COLOUR = 1.4  # of full contrast after the VAE's last norm

# Waves across the picture that attention leans on, per pair of channels: the id's axis, then two
# axes whose waves are 100, 470 and 2,200 pixels long and longer; the short ones look like grids.
_AXIS_WAVES = [0.3, 0.3, 1.2, 1.2, 1.0, 1.0] + [0.5] * 6
_WAVES = np.array(([0.3] * 8 + _AXIS_WAVES * 2) * TRANSFORMER.heads)


def draw_tensors(shapes: Shapes, rule: Rule, *, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Draw each tensor from the seed and its own name, so that their order does not matter."""
    drawn = {}
    for name, shape in shapes.items():
        chance = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        drawn[name] = np.ascontiguousarray(rule(name, shape, chance), dtype=np.float32)
    return drawn


def text_rule(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """Scale a tensor of a text encoder: words far apart, layers a little louder than usual."""
    if "norm" in name and name.endswith("weight"):
        return np.ones(shape)
    if len(shape) == 1:
        return np.zeros(shape)
    if "embedding" in name or name == "shared.weight":
        return chance.standard_normal(shape)
    return 1.5 * _layer(shape, chance)


def transformer_rule(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """Scale a tensor of the transformer, by its name under diffusers."""
    stem, kind = name.rsplit(".", 1)
    if name == "x_embedder.weight":
        return _patch_basis()
    if name == "proj_out.weight":
        return DENOISING * _patch_basis().T
    if stem in ("x_embedder", "proj_out"):
        return np.zeros(shape)
    if ".norm_" in name:
        return np.full(shape, SHARPNESS)
    if "norm" in stem:
        return _modulation(name, shape, chance)
    if stem.endswith(("to_out.0", "net.2", "proj_out")):
        return _writing(name, shape, chance)
    if stem.endswith((".to_q", ".to_k")):
        if kind == "weight":
            return PATCHES * _layer(shape, chance)
        # queries and keys lean alike, so a patch looks first at the reference's same place
        block = zlib.crc32(stem.rsplit(".", 1)[0].encode())
        return _WAVES * np.random.Generator(np.random.PCG64(block)).standard_normal(shape)
    if stem.endswith(("add_q_proj", "add_k_proj")) and kind == "weight":
        return WORDS * _layer(shape, chance)
    return _layer(shape, chance)


def vae_rule(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    """Scale a tensor of the VAE."""
    if "norm" in name:
        return np.ones(shape) if name.endswith("weight") else np.zeros(shape)
    if len(shape) < 4:
        return _layer(shape, chance) * (0.3 if len(shape) == 2 else 0.5)
    noise = _layer(shape, chance)
    if "samplers" in name:
        blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
        if "down" in name:
            blur = np.pad(np.full((2, 2), 0.25), ((0, 1), (0, 1)))
        same = np.eye(shape[0])[:, :, None, None]
        return CHANCE_IN_VAE * noise + same * blur
    if "conv2" in name:
        return 2 * CHANCE_IN_VAE * noise
    if name == "decoder.conv_in.weight":
        return 0.2 * noise + _at_centre(chance.standard_normal(shape[:2]) / 4)
    if name == "decoder.conv_out.weight":
        return 0.3 * noise + _at_centre(COLOUR * _colours(shape[:2], chance))
    return noise


def _layer(shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    if len(shape) == 1:
        return 0.1 * chance.standard_normal(shape)
    return chance.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))


def _patch_basis() -> Array:
    # patches come as (channel, place in the 2 x 2); out come first the means, then the differences
    hadamard = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    return np.concatenate([np.kron(np.eye(LATENT_CHANNELS), row) for row in hadamard])


def _means_only(rows: Array) -> Array:
    # without a mean of their own, or the last norm would write it into the differences as a grid
    painted = np.zeros_like(rows)
    means = rows[:LATENT_CHANNELS]
    painted[:LATENT_CHANNELS] = means - means.mean(axis=0)
    return painted


def _writing(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    if name.endswith("bias"):
        return np.zeros(shape)
    painted = WRITING * _means_only(_layer(shape, chance))
    if "ff" in name:
        painted *= FEED_FORWARD
    if name.startswith("single"):
        painted[:, TRANSFORMER.inner :] *= FEED_FORWARD
    return painted


def _modulation(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    drawn = _layer(shape, chance)
    inner = TRANSFORMER.inner
    if name.startswith("norm_out"):
        halves = drawn if name.endswith("weight") else np.zeros(shape)
        return MODULATION * np.concatenate(
            [_means_only(halves[:inner]), _means_only(halves[inner:])]
        )
    if name.endswith("weight"):
        return MODULATION * drawn
    # every third part is a gate: open, or nothing would be painted
    for gate in range(2 * inner, shape[0], 3 * inner):
        drawn[gate : gate + inner] += 1.0
    return drawn


def _at_centre(taps: Array) -> Array:
    return np.pad(taps[:, :, None, None], ((0, 0), (0, 0), (1, 1), (1, 1)))


def _colours(shape: tuple[int, ...], chance: np.random.Generator) -> Array:
    # red, green and blue at right angles, so that they do not rise together, and without a cast
    drawn = chance.standard_normal(shape)
    for index, row in enumerate(drawn):
        row -= row.mean()
        for before in drawn[:index]:
            row -= before * (row @ before)
        row /= np.sqrt(row @ row)
    return drawn
