"""What an operator is told when a verb does not do what it was asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong, with its cause, and the line that mends it. Never a secret."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}\n    mend   {self.mend}"


class Refused(Exception):  # noqa: N818 - what it is: nothing failed, nothing was done
    """A verb stopped before it did harm. Exit code 1."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Misused(Refused):
    """A wrong command line. Exit code 2."""


def refused(what: str, mend: str) -> Refused:
    return Refused(Problem(what, mend))
