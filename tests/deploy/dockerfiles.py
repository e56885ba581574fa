"""Read Dockerfiles and .dockerignore into what rules can ask."""

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("Dockerfile.api", "Dockerfile.worker")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A word and what follows it, on one line."""

    word: str
    rest: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is built from one FROM; the part before the first one has no base."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[str]:
        """Find what follows every such word."""
        return [each.rest for each in self.instructions if each.word == word]


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """A Dockerfile: what comes before the first FROM, then its stages."""

    name: str
    head: Stage
    stages: tuple[Stage, ...]

    @property
    def last(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]

    def all(self, word: str) -> list[str]:
        """Find what follows every such word, of all stages."""
        return [rest for stage in (self.head, *self.stages) for rest in stage.all(word)]


def read_dockerfile(name: str, text: str) -> Dockerfile:
    """Read one; a line that ends with a backslash goes on, a line that begins with # is none."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[tuple[str, str, list[Instruction]]] = [("", "", [])]
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name_of = rest.partition(" AS ")
            stages.append((base.strip(), name_of.strip(), []))
        else:
            stages[-1][2].append(Instruction(word=word, rest=" ".join(rest.split())))
    made = [Stage(base=base, name=n, instructions=tuple(steps)) for base, n, steps in stages]
    return Dockerfile(name=name, head=made[0], stages=tuple(made[1:]))


def is_sent(path: str, ignore: str) -> bool:
    """Say whether an engine gets a file of the repository: the last pattern that fits decides."""
    sent = True
    for line in ignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        if _fits(path, pattern.removeprefix("!")):
            sent = pattern.startswith("!")
    return sent


def _fits(path: str, pattern: str) -> bool:
    parts = path.split("/")
    anywhere = pattern.startswith("**/")
    wanted = pattern.removeprefix("**/").split("/")
    starts = range(len(parts)) if anywhere else range(1)
    return any(
        len(parts) >= start + len(wanted) and all(map(fnmatch.fnmatchcase, parts[start:], wanted))
        for start in starts
    )
