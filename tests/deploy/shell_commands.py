"""Read commands out of documents and workflows: whole words, as a shell would give them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

# What is rehearsed, and what a document may use besides.
REHEARSED = ("gcloud", "terraform", "docker", "illo")
PLAIN = ("cd", "cp", "curl", "date", "export", "make")
OPERATORS = frozenset("();<>|&")
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`((?:{'|'.join(REHEARSED)}) [^`]+)`")
_ASSIGNED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_BEFORE = frozenset({"do", "then", "else", "if", "!"})  # words of the shell that a command follows


@dataclass(frozen=True)
class Command:
    """One call of a program: what it is named, and the words after it."""

    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join([self.program, *self.words])


class Unreadable(Exception):
    """A document has something that is no command, where a command is expected."""


def in_markdown(text: str) -> Iterator[Command]:
    """Read the commands of a document's blocks, and those that its sentences name."""
    for block in _FENCED.findall(text):
        yield from _of_block(block)
    for inline in _INLINE.findall(_FENCED.sub("", text)):
        yield from in_shell(" ".join(inline.split()))


def in_shell(text: str) -> Iterator[Command]:
    """Read the commands of a script; one within `$( )` comes before the one around it."""
    for line in text.replace("\\\n", " ").splitlines():
        line, inner = _without_substitutions(line)
        for script in inner:
            yield from in_shell(script)
        for words in _calls(line):
            yield Command(words[0], tuple(words[1:]))


def _of_block(block: str) -> Iterator[Command]:
    commands = list(in_shell(block))
    known = [command.program in (*REHEARSED, *PLAIN) for command in commands]
    if not any(known):  # a formula, or what a program prints
        return
    for command, is_known in zip(commands, known, strict=True):
        if not is_known:
            raise Unreadable(f"{command}: nobody knows how to check {command.program}")
        yield command


def _without_substitutions(line: str) -> tuple[str, list[str]]:
    """Cut each outermost `$(…)` out of a line, and put a word in its place."""
    inner: list[str] = []
    while (start := line.find("$(")) >= 0:
        depth, end = 0, start + 1
        for end in range(start + 1, len(line)):
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            if not depth:
                break
        if depth:
            raise Unreadable(f"{line}: a $( has no end")
        inner.append(line[start + 2 : end])
        line = line[:start] + "SUBSTITUTED" + line[end + 1 :]
    return line, inner


def _calls(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="".join(OPERATORS))
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if OPERATORS.issuperset(word):
            redirected = "<" in word or ">" in word
            if not redirected:
                yield from _call(words)
                words = []
        elif redirected:
            redirected = False
        else:
            words.append(word)


def _call(words: list[str]) -> Iterator[list[str]]:
    while words and (words[0] in _BEFORE or _ASSIGNED.fullmatch(words[0])):
        words = words[1:]
    if words:
        yield words
