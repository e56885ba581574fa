"""The stories as latents: drawn and encoded once, then kept on disk and read as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from worker.pipeline.artist.emphasis import emphasis
from worker.pipeline.artist.stories import GROUPS, Story, story
from worker.pipeline.artist.vae_training import OnStep, to_pixels
from worker.pipeline.artist.workbench import Stand, Workbench

UNSEEN = 64  # stories of held-out characters, to measure on
MEASURED = GROUPS  # the number of the page of those, after the pages of all groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Stories whose pictures have the same sizes, with their latents shifted and scaled."""

    stories: Sequence[Story]
    plain: torch.Tensor  # (stories, 16, height / 16, width / 16)
    scenes: torch.Tensor  # (stories, scenes, 16, height / 16, width / 16)
    counts: torch.Tensor  # (stories, scenes, height / 32 * width / 32): of each token of a scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Album:
    """All pages there are."""

    pages: Sequence[Page]  # one for each pair of sizes
    unseen: Page  # what nothing is learned from: to measure on


def is_begun(workbench: Workbench) -> bool:
    """Whether any page is there: its latents are of the VAE that encoded them, and no other."""
    return workbench.path_of(_name(0)).exists()


def fill_album(
    workbench: Workbench,
    vae: Any,
    *,
    seed: int,
    stories: int,
    device: torch.device,
    on_step: OnStep,
) -> None:
    """Draw and encode what is not in the album yet, a page after the other."""
    pages = [_stories(number, seed=seed, stories=stories) for number in range(MEASURED + 1)]
    encoded, whole = 0, sum(len(told) for told in pages)
    for number, told in enumerate(pages):
        if workbench.path_of(_name(number)).exists():
            encoded += len(told)
            continue
        plain, scenes = [], []
        for each in told:
            pictures = list(each.draw_scenes())
            plain.append(_encoded(vae, to_pixels([each.draw_plain()], device))[0])
            scenes.append(_encoded(vae, to_pixels(pictures, device)))
            encoded += 1
            on_step("drawing and encoding stories", encoded / whole, f"{encoded:,} of {whole:,}")
        page = {"plain": torch.stack(plain), "scenes": torch.stack(scenes)}
        workbench.save(_name(number), page, Stand(step=len(told)))


def open_album(workbench: Workbench, *, seed: int, stories: int) -> Album:
    """Read all pages."""
    pages = [_page(workbench, number, seed=seed, stories=stories) for number in range(MEASURED + 1)]
    return Album(pages=pages[:GROUPS], unseen=pages[MEASURED])


def _page(workbench: Workbench, number: int, *, seed: int, stories: int) -> Page:
    latents = workbench.load(_name(number))
    told = _stories(number, seed=seed, stories=stories)
    counts = [emphasis(each.places(), each.scene_size) for each in told]
    return Page(
        stories=told,
        plain=latents["plain"],
        scenes=latents["scenes"],
        counts=torch.stack(counts),
    )


def _stories(number: int, *, seed: int, stories: int) -> list[Story]:
    if number == MEASURED:  # all of one size, so that they are measured together
        return [story(GROUPS * at, seed=seed, held_out=True) for at in range(UNSEEN)]
    return [story(each, seed=seed) for each in range(number, stories, GROUPS)]


def _encoded(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16):
        latents = vae.encode(pixels).latent_dist.mode().float()
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled.to("cpu", torch.float16)


def _name(number: int) -> str:
    return f"album-{number}"
