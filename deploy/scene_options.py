"""The options that say how a scene is drawn, as fields of a request."""

import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


class Size(click.ParamType[tuple[int, int]]):
    """Width and height as 1024x768."""

    name = "WIDTHxHEIGHT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read the two numbers."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,5})[x×]([0-9]{1,5})", value)
        if not found:
            self.fail(f"{value!r} is not like 1024x768", param, ctx)
        return int(found[1]), int(found[2])


def scene_options(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command size, steps, guidance, count and format."""
    for option in (
        click.option("--format", type=click.Choice(["png", "jpeg", "webp"])),
        click.option("--count", type=int, help="How many pictures, each with its own seed."),
        click.option("--guidance", type=float, help="How closely to follow the prompt."),
        click.option("--steps", type=int, help="Denoising steps."),
        click.option("--size", type=Size(), help="Like 1024x768."),
    ):
        command = option(command)
    return command


def scene_fields(size: tuple[int, int] | None, **given: object) -> dict[str, object]:
    """Name the fields of a request that were given; the service fills in the rest."""
    sides = {"width": size[0], "height": size[1]} if size else {}
    return sides | {name: value for name, value in given.items() if value is not None}
