"""How a wrong setting is told: which one, what is wrong with it, and the line that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]  # of a value in the stack file: ("operator", "apiCidrs", 0)


class Wrong(ValueError):  # noqa: N818 - reads as what it says: raise Wrong("is empty")
    """A rule's refusal of one value; the caller knows the key and the place it was read from.

    `why` completes the sentence "<key> …" and never holds the value itself, unless the value has
    already been seen to have a harmless shape (a network, a host name, a number): anything else
    may be a secret that was pasted into the wrong field. `to` is the value to write instead;
    `mend` a whole mending line where setting the value is not the answer.
    """

    def __init__(self, why: str, to: str | None = None, mend: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.to = to
        self.mend = mend


@dataclass(frozen=True)
class Looks:
    """What to write for a value of one type, in words or as an example; part of such a type."""

    like: str


@dataclass(frozen=True)
class Problem:
    """One wrong setting. `mend` is a command to paste, or `<file>: <line to write there>`."""

    key: str
    wrong: str
    mend: str

    def __str__(self) -> str:
        return f"  {self.key}\n    wrong  {self.wrong}\n    mend   {self.mend}"


class SettingsError(Exception):
    """Every problem of one stack's settings, sorted by file and key."""

    def __init__(self, stack: str, problems: Iterable[Problem]) -> None:
        self.stack = stack
        self.problems = sorted(problems, key=_order)
        super().__init__(stack, self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        header = "1 setting" if count == 1 else f"{count} settings"
        verb = "is" if count == 1 else "are"
        text = f"{header} of stack {self.stack} {verb} wrong. Nothing was declared.\n\n"
        text += "\n\n".join(map(str, self.problems))
        if any(" --secret " in problem.mend for problem in self.problems):
            text += "\n\n`pulumi config set --secret` without a value asks for it, unseen.\n"
        return text


def _order(problem: Problem) -> tuple[bool, list[tuple[int, str]], str]:
    """Stack configuration first, then files; numbers count as numbers (line 9 < line 10)."""
    parts = re.split(r"(\d+)", problem.key)
    natural = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return not problem.key.startswith("honeydue:"), natural, problem.wrong
