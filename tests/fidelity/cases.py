"""The ways in which the artist is asked, and what each of them scores."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import torch
from PIL import Image

from tests.fidelity.faults import FAULTS
from tests.fidelity.measuring import Score, draw_all, score
from tests.fidelity.orders import Order, shuffled
from worker.pipeline.artist.characters import Setting
from worker.pipeline.artist.drawings import draw_scene
from worker.pipeline.artist.judge import Judge
from worker.pipeline.artist.vae_training import to_pixels
from worker.pipeline.kontext import Kontext

Pictures = Sequence[Image.Image]
Shows = Callable[[Order], Pictures]


def plain(order: Order) -> Pictures:
    """Show the character alone."""
    return (order.reference(),)


def another_scene(order: Order) -> Pictures:
    """Show the character in another setting."""
    chance = Random(f"{order.seed} reference")
    others = [each for each in Setting if each is not order.setting]
    return (draw_scene(order.character, chance.choice(others), order.size, chance)[0],)


def both(order: Order) -> Pictures:
    """Show the character alone, then in another setting."""
    return (*plain(order), *another_scene(order))


def nothing(order: Order) -> Pictures:
    """Show nothing: the words say how the character looks."""
    return ()


def drawn_with(
    kontext: Kontext, asked: Sequence[Order], *, steps: int, shows: Shows = plain
) -> list[Image.Image]:
    """Draw all orders, with what is shown of their characters."""
    references = [shows(order) for order in asked]
    scenes = [
        order.scene(*shown, steps=steps, prompt=None if shown else order.words_alone)
        for order, shown in zip(asked, references, strict=True)
    ]
    return draw_all(kontext, scenes, references)


def there_and_back(kontext: Kontext, pictures: Pictures) -> list[Image.Image]:
    """Send pictures through the VAE alone."""
    pipeline, given = kontext._pipeline, []
    with torch.no_grad():
        for picture in pictures:
            pixels = to_pixels([picture], torch.device(kontext.device)).to(pipeline.vae.dtype)
            back = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
            given += pipeline.image_processor.postprocess(back.float(), output_type="pil")
    return given


def usual_cases(
    kontext: Kontext, asked: Sequence[Order], judge: Judge, *, steps: int
) -> dict[str, Score]:
    """Score what is asked as it should be, and the controls that must not be."""
    settings = [order.setting for order in asked]
    elsewhere = [
        replace(order, setting=setting)
        for order, setting in zip(asked, [*settings[1:], settings[0]], strict=True)
    ]
    pictures = {
        "true drawings": [order.truth() for order in asked],
        "through the VAE only": there_and_back(kontext, [order.truth() for order in asked]),
        "as asked": drawn_with(kontext, asked, steps=steps),
        "another's reference": drawn_with(kontext, shuffled(list(asked)), steps=steps),
        "another's prompt": drawn_with(kontext, elsewhere, steps=steps),
        "a whole scene as reference": drawn_with(kontext, asked, steps=steps, shows=another_scene),
        "two references": drawn_with(kontext, asked, steps=steps, shows=both),
        "no reference, in words": drawn_with(kontext, asked, steps=steps, shows=nothing),
    }
    return {case: score(asked, found, judge) for case, found in pictures.items()}


def faulty_cases(
    kontext: Kontext, asked: Sequence[Order], judge: Judge, *, steps: int
) -> dict[str, Score]:
    """Score what each planted fault makes of the same orders."""
    found = {}
    for name, planted in FAULTS.items():
        with planted(kontext):
            found[name] = score(asked, drawn_with(kontext, asked, steps=steps), judge)
    return found
