"""Read the Terraform files of a folder into blocks that rules can ask."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import hcl2

ROOT = Path(__file__).parents[2]
TERRAFORM = ROOT / "deploy" / "terraform"

OURS = (".tf", ".json", ".md", ".example")

_MARK = "__is_block__"
_NOT_BLOCKS = (_MARK, "__comments__", "__inline_comments__")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block: its kind, its labels, its arguments and the blocks inside it.

    A string is itself and an expression begins with `${`. A block that is written as `dynamic` is
    found under its own name, with `each` saying what it is repeated for.
    """

    kind: str
    labels: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple["Block", ...] = ()
    each: str | None = None

    @property
    def address(self) -> str:
        """How other blocks name it."""
        return ".".join((*(("data",) if self.kind == "data" else ()), *self.labels))

    @property
    def address_kind(self) -> str:
        """What it is an instance of: google_storage_bucket, or data.google_project."""
        return self.address.rpartition(".")[0]

    def all(self, kind: str) -> list["Block"]:
        """Find the blocks of a kind that lie directly inside."""
        return [block for block in self.blocks if block.kind == kind]

    def at(self, *path: str) -> "Block":
        """Follow a path of blocks; where one is missing, or is there twice, an empty one."""
        block = self
        for kind in path:
            found = block.all(kind)
            block = found[0] if len(found) == 1 else Block(kind=kind)
        return block

    def get(self, name: str) -> Any:
        """Read an argument; None if it is not given."""
        return self.arguments.get(name)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """All blocks of a folder's .tf files, and the text of every file."""

    texts: Mapping[str, str]
    blocks: tuple[Block, ...]

    def provided(self) -> Iterator[Block]:
        """List what a provider has to know: resources and data sources."""
        return (block for block in self.blocks if block.kind in ("resource", "data"))

    def of(self, kind: str) -> list[Block]:
        """List the resources of a kind."""
        return [block for block in self.provided() if block.address_kind == kind]

    def one(self, address: str) -> Block:
        """Find a resource by its address; where it is missing, an empty one."""
        found = [block for block in self.provided() if block.address == address]
        return found[0] if found else Block(kind="resource", labels=tuple(address.split(".")))

    def local(self, name: str) -> Any:
        """Read a local value; None if there is none."""
        given = [block.get(name) for block in self.blocks if block.kind == "locals"]
        return next((value for value in given if value is not None), None)

    def variable(self, name: str) -> Block:
        """Find a variable; where it is missing, an empty block."""
        found = [b for b in self.blocks if (b.kind, b.labels) == ("variable", (name,))]
        return found[0] if found else Block(kind="variable", labels=(name,))


def read_tree(folder: Path) -> Tree:
    """Read the files of a folder that are the repository's."""
    files = sorted(file for file in folder.iterdir() if file.suffix in OURS)
    return parse({file.name: file.read_text() for file in files})


def parse(texts: Mapping[str, str]) -> Tree:
    """Read the blocks of those texts that are Terraform's."""
    code = [text for name, text in texts.items() if name.endswith(".tf")]
    blocks = [block for text in code for block in _read(text)]
    return Tree(texts=texts, blocks=tuple(blocks))


def variables_named(expression: str) -> set[str]:
    """List the variables that an expression reads."""
    return set(re.findall(r"\bvar\.(\w+)", expression))


@cache
def _read(text: str) -> tuple[Block, ...]:
    return tuple(_blocks(hcl2.loads(text)))


def _blocks(body: Mapping[str, Any]) -> Iterator[Block]:
    for kind, given in body.items():
        if kind not in _NOT_BLOCKS and _is_blocks(given):
            for one in given:
                yield from _dynamic(one) if kind == "dynamic" else _unlabelled(kind, (), one)


def _is_blocks(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(_is_block(one) for one in given)


def _is_block(given: Any) -> bool:
    """Say whether it is a block, under however many labels."""
    while isinstance(given, dict) and _MARK not in given and len(given) == 1:
        (given,) = given.values()
    return isinstance(given, dict) and _MARK in given


def _unlabelled(kind: str, labels: tuple[str, ...], given: Mapping[str, Any]) -> Iterator[Block]:
    if _MARK not in given:
        ((label, inner),) = given.items()
        yield from _unlabelled(kind, (*labels, label.strip('"')), inner)
        return
    arguments = {
        name: _plain(value)
        for name, value in given.items()
        if name not in _NOT_BLOCKS and not _is_blocks(value)
    }
    yield Block(kind=kind, labels=labels, arguments=arguments, blocks=tuple(_blocks(given)))


def _dynamic(given: Mapping[str, Any]) -> Iterator[Block]:
    ((label, body),) = given.items()
    (content,) = body["content"]
    (block,) = _unlabelled(label.strip('"'), (), content)
    each = body["for_each"]
    yield Block(
        kind=block.kind,
        arguments=block.arguments,
        blocks=block.blocks,
        each=each if isinstance(each, str) else repr(each),
    )


def _plain(value: Any) -> Any:
    """Take the quotes off strings and names; whatever has an expression in it stays one."""
    if isinstance(value, str):
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        return value[1:-1] if quoted else value
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items() if k not in _NOT_BLOCKS}
    return value
