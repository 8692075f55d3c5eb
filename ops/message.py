"""What a verb writes into the engine's history: `pulumi up --message`, with trailers as git's.

    deploy 237c6b8

    By: trey@laptop
    Point-of-no-return: drops the column users.email

The history lives with the state, so a second operator and a rebuilt cluster read the same. The
subject is for people (`pulumi stack history` shows it); what verbs read again stands in trailers.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

BY: Final = "By"
SERVICE: Final = "Service"
POINT_OF_NO_RETURN: Final = "Point-of-no-return"
ROLLS_BACK: Final = "Rolls-back"
BECAUSE: Final = "Because"

_TRAILER: Final = re.compile(r"([A-Z][A-Za-z-]*): (.*)")


@dataclass(frozen=True)
class Message:
    subject: str
    trailers: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """Each trailer is one line: a line break in a value becomes a space."""
        lines = [f"{key}: {' '.join(value.split())}" for key, value in self.trailers.items()]
        return "\n".join([" ".join(self.subject.split()), *([""] if lines else []), *lines])

    @staticmethod
    def parse(text: str) -> Message:
        """Of any message; one that a person wrote has no trailers, or their own."""
        subject, _, rest = text.strip().partition("\n")
        found = (_TRAILER.fullmatch(line.strip()) for line in rest.splitlines())
        return Message(subject, {each[1]: each[2] for each in found if each})


def operator() -> str:
    """Who works here: `trey@laptop`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
