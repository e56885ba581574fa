"""Say what a picture shows without knowing what it should: a small classifier, fitted on drawings.

Rules of our own would have to find a green body on green grass and a dark hat at night, and would
give in to soft edges; fitted on drawings that were blurred and made noisy it reads those, too, and
what it can read is measured on drawings that it was not fitted on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from worker.pipeline.artist.characters import (
    Character,
    Eyes,
    Hat,
    Place,
    Setting,
    Shape,
    draw_character,
    pick,
)
from worker.pipeline.artist.drawings import SIZES, draw_scene
from worker.pipeline.artist.vae_training import to_pixels

DRAWINGS = 6000
BATCH = 48
TURNS = 9  # how often each drawing is seen
RATE = 4e-3
CELL = 16  # pixels of the picture that one place of the last layer stands for
_KINDS = (Shape, Hat, Eyes, Setting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a picture shows."""

    character: Character
    setting: Setting
    place: Place


class Judge:
    """Looks at pictures."""

    def __init__(self, network: "_Network") -> None:
        self._network = network

    def look(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Say of each picture what it shows; they have one size."""
        with torch.no_grad():
            found = self._network(to_pixels(list(pictures), torch.device("cpu")))
        return [_verdict(each) for each in zip(*found, strict=True)]


def fit_judge(*, seed: int, drawings: int = DRAWINGS, turns: int = TURNS) -> Judge:
    """Draw, and fit a judge on the drawings; the same seed gives the same judge."""
    chance = Random(f"{seed} judge")  # noqa: S311
    pages = [_drawn(chance, size, drawings // len(SIZES)) for size in SIZES]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Network()
        _fit(network, pages, chance, turns)
    return Judge(network.eval())


class _Network(nn.Module):  # type: ignore[misc]
    """Finds the body, reads its features there, and the setting's everywhere."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((3, 24, 2), (24, 48, 2), (48, 64, 1), (64, 96, 2), (96, 128, 1))
        self.layers = nn.Sequential(*(_layer(*each) for each in widths))
        self.where = nn.Conv2d(128, 1, 1)
        self.size = nn.Linear(128, 1)
        self.hue = nn.Linear(128, 2)
        self.kinds = nn.ModuleList(nn.Linear(128, len(kind)) for kind in _KINDS)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.layers(functional.avg_pool2d(pixels, 2))
        height, width = features.shape[2:]
        attended = self.where(features).flatten(1).softmax(dim=1)
        here = torch.einsum("bcp,bp->bc", features.flatten(2), attended)
        everywhere = features.mean(dim=(2, 3))
        rows = (torch.arange(height).repeat_interleave(width) + 0.5) * CELL
        columns = (torch.arange(width).repeat(height) + 0.5) * CELL
        place = torch.stack(
            [attended @ columns, attended @ rows, CELL * self.size(here)[:, 0]], dim=1
        )
        kinds = [
            head(everywhere if kind is Setting else here)
            for kind, head in zip(_KINDS, self.kinds, strict=True)
        ]
        return functional.normalize(self.hue(here), dim=1), place, *kinds


def _layer(taken: int, given: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(taken, given, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(given), nn.ReLU())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    pixels: torch.Tensor
    hues: torch.Tensor
    places: torch.Tensor
    kinds: tuple[torch.Tensor, ...]


def _drawn(chance: Random, size: tuple[int, int], count: int) -> _Page:
    pictures, hues, places, kinds = [], [], [], []
    for _ in range(count):
        character = draw_character(chance)
        setting = pick(chance, list(Setting))
        picture, place = draw_scene(character, setting, size, chance)
        pictures.append(picture)
        turn = math.radians(character.hue)
        hues.append((math.cos(turn), math.sin(turn)))
        places.append((place.x, place.y - place.size / 2, place.size))
        shown = (character.shape, character.hat, character.eyes, setting)
        kinds.append([list(kind).index(each) for kind, each in zip(_KINDS, shown, strict=True)])
    return _Page(
        pixels=to_pixels(pictures, torch.device("cpu")),
        hues=torch.tensor(hues),
        places=torch.tensor(places),
        kinds=tuple(torch.tensor(kinds).T),
    )


def _fit(network: _Network, pages: Sequence[_Page], chance: Random, turns: int) -> None:
    steps = turns * sum(len(page.hues) for page in pages) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        page = pages[chance.randrange(len(pages))]
        rows = torch.randint(len(page.hues), (BATCH,))
        hues, places, *kinds = network(_worn(page.pixels[rows]))
        loss = 2 * (1 - (hues * page.hues[rows]).sum(dim=1)).mean()
        loss = loss + functional.smooth_l1_loss(places / CELL, page.places[rows] / CELL)
        for guessed, right in zip(kinds, page.kinds, strict=True):
            loss = loss + functional.cross_entropy(guessed, right[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _worn(pixels: torch.Tensor) -> torch.Tensor:
    """Make drawings as soft and as uneven as what models draw: each picture by chance."""
    soft = functional.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
    mixed = torch.rand(len(pixels), 1, 1, 1)
    noise = 0.08 * torch.rand(len(pixels), 1, 1, 1) * torch.randn_like(pixels)
    light = 0.06 * torch.randn(len(pixels), 1, 1, 1)
    return pixels.lerp(soft, mixed) + noise + light


def _verdict(found: tuple[torch.Tensor, ...]) -> Verdict:
    hue, place, *kinds = found
    shape, hat, eyes, setting = (int(each.argmax()) for each in kinds)
    x, y, size = place.tolist()
    turn = math.degrees(math.atan2(float(hue[1]), float(hue[0]))) % 360
    return Verdict(
        character=Character(
            hue=turn, shape=list(Shape)[shape], hat=list(Hat)[hat], eyes=list(Eyes)[eyes]
        ),
        setting=list(Setting)[setting],
        place=Place(x=x, y=y + size / 2, size=size),  # found is the body's middle
    )
