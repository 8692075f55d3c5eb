"""How each command of the book is proven, where it is not simply run.

Everything is run, word for word, in bash, unless ELSEWHERE names it. A rule there that fits no
command of the book fails the test: the list stays as short as it can be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Elsewhere:
    """Commands that are not run here. `why`, and what proves them instead."""

    pattern: str
    why: str

    def fits(self, command: str) -> bool:
        return re.match(self.pattern, command) is not None


# Each of these is at least read by `bash -n`.
ELSEWHERE: Final = (
    Elsewhere(r"ssh ", "no server here has an sshd: a node of the rehearsal is a folder"),
    Elsewhere(r"hcloud ", "Hetzner's own CLI, which is not installed here"),
)

# Verbs of ops that ask. There is no terminal here, so the test says yes on the command line.
ASKING: Final = (
    "deploy",
    "rollback",
    "config set",
    "config unset",
    "config import",
    "secret set",
    "secret rotate",
    "secret import",
    "images prune",
)

# What is typed, or piped, where a verb asks for a value.
TYPED: Final[Mapping[str, str]] = {
    "secret set EMAIL_HOST_PASSWORD": "another-password-of-the-mail-host",
    "secret rotate REGISTRY_TOKEN": "another-token-of-the-registry-0123456789",
    "secret rotate POSTGRES_PASSWORD": "another-password-of-the-database",
}
