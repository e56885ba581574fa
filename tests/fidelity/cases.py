"""The ways in which the artist is asked."""

from collections.abc import Callable, Sequence
from random import Random

import torch
from PIL import Image

from tests.fidelity.measuring import draw_all
from tests.fidelity.orders import Order
from tests.pipeline.drawings import stock
from worker.pipeline.artist.characters import Setting
from worker.pipeline.artist.drawings import draw_scene
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


def drawn_by_stock(kontext: Kontext, asked: Sequence[Order], *, steps: int) -> list[Image.Image]:
    """Draw all orders with the pipeline as diffusers has it, one after the other."""
    pictures = []
    for order in asked:
        shown = order.reference()
        scene = order.scene(shown, steps=steps)
        pictures.append(stock(kontext, scene, read=lambda _, shown=shown: shown))
    return pictures


def there_and_back(kontext: Kontext, pictures: Pictures) -> list[Image.Image]:
    """Send pictures through the VAE alone."""
    pipeline, given = kontext._pipeline, []
    with torch.no_grad():
        for picture in pictures:
            pixels = to_pixels([picture], torch.device(kontext.device)).to(pipeline.vae.dtype)
            back = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
            given += pipeline.image_processor.postprocess(back.float(), output_type="pil")
    return given
