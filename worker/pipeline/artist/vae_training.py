"""Teach the VAE: pictures into latents and back."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from worker.pipeline.artist.drawings import SIZES
from worker.pipeline.artist.emphasis import PART, emphasis
from worker.pipeline.artist.learning import Learner, Rates, mean, stratified
from worker.pipeline.artist.shapes import new_vae
from worker.pipeline.artist.stories import story
from worker.pipeline.artist.workbench import Stand, Stopwatch, Workbench

PHASE = "vae"
RATES = Rates(matrices=0.02, rest=2e-3, slowing=0.7, average=0.998)
BATCH = 6  # pictures of 128 x 128
EDGES = 0.5  # what differences of neighbours count beside the pixels themselves
KL = 2e-4  # what the latents' divergence from a normal distribution counts
PLAIN = 0.2  # of the batches try to show a plain ground; two thirds of those have another size
NOISE = 0.2  # of the latents' own spread, at most: what the transformer draws is not exact either
ALL_LATENTS = 96  # pictures that scale, shift and quality are measured on
OnStep = Callable[[str, float, str], None]  # what is done, the fraction of it, and a detail


def train_vae(
    workbench: Workbench, *, seed: int, seconds: float, device: torch.device, on_step: OnStep
) -> None:
    """Teach for so many seconds in all, from the beginning or from where it stands."""
    stand = workbench.stand_of(PHASE)
    vae = new_vae(seed).to(device, memory_format=torch.channels_last)
    learner = Learner({PHASE: vae}, RATES)
    if stand.step:
        learner.restore(workbench.load(PHASE), step=stand.step)
    watch = Stopwatch(stand.seconds, seconds)
    recent: list[float] = []
    try:
        while learner.step == 0 or watch.fraction < 1:
            loss = _lost(vae, *_batch(seed, learner.step, device), learner.step)
            loss.backward()
            learner.learn(watch.fraction)
            recent = [*recent[-49:], loss.item()]
            on_step("teaching the VAE", watch.fraction, f"step {learner.step}, {mean(recent):.4f}")
            if watch.due():
                _save(workbench, learner, watch, recent)
    finally:
        if learner.whole and learner.step > stand.step:
            _save(workbench, learner, watch, recent)


def taught_vae(workbench: Workbench, device: torch.device) -> Any:
    """Give the VAE as it was taught, its latents' scale and shift measured."""
    vae = new_vae(0)
    vae.load_state_dict(averaged(workbench.load(PHASE), PHASE))
    vae = vae.to(device, memory_format=torch.channels_last).eval()
    latents = torch.cat([each.flatten() for each in _looked_at(vae, device)])
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 4),
        scaling_factor=round(1 / latents.std().item(), 4),
    )
    return vae


def averaged(saved: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """Take the averages of one part out of what a learner saved."""
    start = f"average {part}."
    return {name.removeprefix(start): each for name, each in saved.items() if start in name}


def quality(vae: Any, device: torch.device) -> float:
    """Measure the way there and back on pictures never taught, in dB."""
    squares = []
    with torch.no_grad():
        for pixels in _unseen(device):
            back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
            squares.append((back - pixels).div(2).square().mean().item())
    return float(-10 * np.log10(mean(squares)))


def to_pixels(pictures: list[Image.Image], device: torch.device) -> torch.Tensor:
    """Make a batch of pictures of one size, from -1 to 1 as the pipeline does."""
    bytes_ = np.stack([np.asarray(picture) for picture in pictures])
    pixels = torch.from_numpy(bytes_).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def _batch(seed: int, step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw pictures, and tell what each of their pixels counts."""
    chance = Random(f"{seed} vae {step}")  # noqa: S311
    size = chance.randrange(len(SIZES))
    pictures, places = [], []
    for _ in range(BATCH):
        told = story(len(SIZES) * chance.randrange(10**6) + size, seed=seed)
        pictures.append(next(told.draw_scenes()))
        places.append(told.places()[0])
    if chance.random() < PLAIN:  # plain grounds are easy, but must be seen
        told = story(len(SIZES) * chance.randrange(10**6) + size, seed=seed)
        if told.plain_size == told.scene_size:
            pictures[0], places[0] = told.draw_plain(), told.plain_place()
    width, height = pictures[0].size
    parts = emphasis(places, (width, height)).view(BATCH, 1, height // PART, width // PART)
    counts = functional.interpolate(parts, scale_factor=PART)
    return to_pixels(pictures, device), (counts / counts.mean()).to(device)


def _lost(vae: Any, pixels: torch.Tensor, counts: torch.Tensor, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    with torch.autocast(pixels.device.type, torch.bfloat16):
        found = vae.encode(pixels).latent_dist
        mode = found.mode()
        noise = torch.randn(mode.shape, generator=generator).to(mode.device)
        amounts = NOISE * stratified(len(pixels), generator).to(mode.device)
        noisy = mode + noise * amounts[:, None, None, None] * mode.detach().std()
        back = vae.decode(noisy).sample.float()
    divergence = (found.mean.float().square() + found.var.float() - 1 - found.logvar.float()) / 2
    missed = back - pixels
    down, across = counts[:, :, 1:], counts[..., 1:]
    edges = (missed.diff(dim=2).abs() * down).mean() + (missed.diff(dim=3).abs() * across).mean()
    return (missed.abs() * counts).mean() + EDGES * edges + KL * divergence.sum(dim=1).mean()


def _unseen(device: torch.device) -> Iterator[torch.Tensor]:
    for number in range(0, ALL_LATENTS, 4):
        told = story(number, seed=-1, held_out=True)
        yield to_pixels(list(told.draw_scenes()), device)


def _looked_at(vae: Any, device: torch.device) -> Iterator[torch.Tensor]:
    with torch.no_grad():
        for pixels in _unseen(device):
            yield vae.encode(pixels).latent_dist.mode().float()


def _save(workbench: Workbench, learner: Learner, watch: Stopwatch, recent: list[float]) -> None:
    stand = Stand(step=learner.step, seconds=watch.seconds)
    workbench.save(PHASE, learner.saved(), stand)
    workbench.note(PHASE, stand, {"loss": mean(recent)})
