"""Save results: images under their names, whole or not at all, and only if they arrived intact."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from deploy.client import Client
from shared.errors import ResultDamaged


def save_images(
    client: Client, images: list[Any], out: Path, name: str, *, taken: Collection[str] = ()
) -> list[Path]:
    """Save images as OUT/<name>.<ext>, or <name>-<i> if there are several.

    One whose name is taken gets a ~ and a number, which no scene's key can have.
    """
    names = {each.casefold() for each in taken}
    saved = []
    for image, stem in zip(images, _stems(name, len(images)), strict=True):
        free = free_name(stem, _extension(image), names)
        names.add(free.casefold())
        saved.append(_save_image(client, image, out / free))
    return saved


def free_name(stem: str, extension: str, taken: Collection[str]) -> str:
    """Choose a file name that is not among the taken ones, which are written in lower case."""
    name, number = f"{stem}.{extension}", 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}~{number}.{extension}"
    return name


def save(path: Path, content: bytes) -> Path:
    """Write a file at one stroke, making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    return path


def _save_image(client: Client, image: Any, path: Path) -> Path:
    content = client.get(image["url"]).body
    if hashlib.sha256(content).hexdigest() != image["sha256"]:
        raise ResultDamaged(f"{image['url']}: other bytes than were drawn arrived; try again")
    return save(path, content)


def _stems(name: str, count: int) -> Iterator[str]:
    if "/" in name or "\\" in name or not name.strip("."):
        raise ResultDamaged(f"{name!r} is no file name")
    return iter([name] if count == 1 else [f"{name}-{i}" for i in range(count)])


def _extension(image: Any) -> str:
    return str(image["content_type"]).rpartition("/")[2]
