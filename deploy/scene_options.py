"""The options that say how a scene is drawn, as fields of a request."""

import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

# What the service chooses for a new drawing; a test holds it against the models of its requests.
NEW_SCENE: Mapping[str, str] = {
    "size": "the first reference's shape, else a square, as large as the weights usually draw: "
    "1024x1024, or 128x128 with the small artist",
    "steps": "28",
    "guidance": "2.5",
    "count": "1",
    "format": "png",
}
AS_DRAWN: Mapping[str, str] = dict.fromkeys(NEW_SCENE, "as it was")


class Size(click.ParamType[tuple[int, int]]):
    """Width and height as 1024x768."""

    name = "WIDTHxHEIGHT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read the two numbers."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,5})[xX×]([0-9]{1,5})", value)
        if not found:
            self.fail(f"{value!r} is not like 1024x768", param, ctx)
        return int(found[1]), int(found[2])


def scene_options(
    otherwise: Mapping[str, str],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a command size, steps, guidance, count and format; its help says what holds otherwise.

    The options themselves have no default: what is not given is the service's to choose.
    """

    def help_of(name: str, text: str) -> str:
        return f"{text}  [default: {otherwise[name]}]" if name in otherwise else text

    def with_options(command: Callable[P, R]) -> Callable[P, R]:
        for name, kind, text in (
            ("format", click.Choice(["png", "jpeg", "webp"]), "How the pictures are encoded."),
            ("count", click.INT, "How many pictures, each with its own seed."),
            ("guidance", click.FLOAT, "How closely to follow the prompt."),
            ("steps", click.INT, "Denoising steps."),
            ("size", Size(), "Like 1024x768."),
        ):
            command = click.option(f"--{name}", type=kind, help=help_of(name, text))(command)
        return command

    return with_options


def scene_fields(size: tuple[int, int] | None, **given: object) -> dict[str, object]:
    """Name the fields of a request that were given; the service fills in the rest."""
    sides = {"width": size[0], "height": size[1]} if size else {}
    return sides | {name: value for name, value in given.items() if value is not None}
