"""The book as data: its code blocks, its commands, and what it mentions by name.

A chapter may hold four kinds of code blocks, and a test refuses any other:

    sh       every line is a command
    console  lines that begin with `$ ` are commands; the others are what they print
    yaml     a part of a stack file
    text     neither

A line that is only a comment is none; a command may go on behind a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
BOOK: Final = ROOT / "docs" / "book"
KINDS: Final = ("sh", "console", "yaml", "text")
# What makes a span of text a command, and not the name of something.
_COMMAND: Final = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:make|python3? -m|pulumi|kubectl|git|docker|hcloud|ssh|k3s|journalctl|cp)"
    r" \S"
)
_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """`printed`: what the book says that it prints, shortened; empty where it says nothing."""

    chapter: str
    line: int
    text: str
    printed: tuple[str, ...] = ()
    mentioned: bool = False
    """In the text, and not in a block of its own."""

    def __str__(self) -> str:
        return f"{self.chapter}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    kind: str
    line: int  # of its first line of content
    content: tuple[str, ...]


@dataclass(frozen=True)
class Chapter:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def blocks(self) -> Iterator[Block]:
        kind, begun, content = None, 0, list[str]()
        for number, line in enumerate(self.lines, start=1):
            if not line.lstrip().startswith("```"):
                content.append(line)
            elif kind is None:
                kind, begun, content = line.strip().removeprefix("```"), number + 1, []
            else:
                yield Block(kind, begun, tuple(content))
                kind = None
        assert kind is None, f"{self.name}: the code block of line {begun} does not end"

    def prose(self) -> Iterator[tuple[int, str]]:
        """(number, line) of everything outside of code blocks."""
        inside = False
        for number, line in enumerate(self.lines, start=1):
            if line.lstrip().startswith("```"):
                inside = not inside
            elif not inside:
                yield number, line

    def spans(self) -> Iterator[tuple[int, str]]:
        """(line, text) of everything in back quotes, but for what was typed before this program."""
        old = False
        for number, line in self.prose():
            old = (old or line.startswith("| By hand |")) and line.startswith("|")
            cells = line.split(" | ")
            told = " | ".join(cells[1:]) if old and len(cells) > 1 else line
            for found in _SPAN.finditer(told):
                yield number, found[1]

    def commands(self) -> Iterator[Command]:
        """Those of the blocks and of the text, in the order in which one reads them."""
        found = [each for block in self.blocks() for each in self._of(block)]
        found += [
            Command(self.name, line, text, mentioned=True)
            for line, text in self.spans()
            if _COMMAND.match(text)
        ]
        yield from sorted(found, key=lambda each: each.line)

    def _of(self, block: Block) -> Iterator[Command]:
        if block.kind not in ("sh", "console"):
            return
        typed: list[tuple[int, str, list[str]]] = []
        goes_on = False
        for number, line in enumerate(block.content, start=block.line):
            if goes_on:
                begun, said, printed = typed.pop()
                typed.append((begun, said.removesuffix("\\") + line.strip(), printed))
            elif block.kind == "sh":
                if not line.strip() or line.lstrip().startswith("#"):
                    continue
                typed.append((number, line.strip(), []))
            elif line.startswith("$ "):
                typed.append((number, line.removeprefix("$ ").strip(), []))
            else:
                assert typed, f"{self.name}:{number}: printed before anything was typed"
                typed[-1][2].append(line)
                continue
            goes_on = typed[-1][1].endswith("\\")
        for number, text, printed in typed:
            yield Command(self.name, number, _without_comment(text), tuple(printed))


def chapters() -> list[Chapter]:
    """README first: it holds commands as well."""
    return [Chapter(path) for path in (BOOK / "README.md", *sorted(BOOK.glob("[0-9]*.md")))]


def _without_comment(text: str) -> str:
    """A comment begins behind two blanks, so that none is in a quoted text."""
    return re.split(r"\s{2,}# ", text, maxsplit=1)[0].rstrip()


# --- what is printed ----------------------------------------------------------------------------

_CHANGING: Final = (
    (re.compile(r"-[a-z0-9]{6,10}-[a-z0-9]{5}\b"), "-#-#"),
    (re.compile(r"\b(?:\d+[dhms])+\b"), "0 s"),
    (re.compile(r"\b[0-9a-f]*(?:[0-9][a-f]|[a-f][0-9])[0-9a-f]*…?(?![\w])"), "#"),
    (re.compile(r"\d+(?:\.\d+)? (?:s|min|h|d|ms)\b"), "0 s"),
    (re.compile(r"\d+"), "0"),
    (re.compile(r"\s+"), " "),
)


def lasting(line: str) -> str:
    """A printed line without what differs from run to run: numbers, digests, ages, widths."""
    for pattern, instead in _CHANGING:
        line = pattern.sub(instead, line)
    return line.strip()


def missing(printed: tuple[str, ...], really: str) -> str | None:
    """The first line of `printed` that was not, in that order. `…` stands for any text."""
    lines = iter([lasting(line) for line in really.splitlines()])
    for wanted in printed:
        told = lasting(wanted)
        if told in ("", "…", "..."):
            continue
        pattern = re.compile(".*?".join(re.escape(part) for part in told.split("…")))
        if not any(pattern.fullmatch(line) for line in lines):
            return wanted
    return None
