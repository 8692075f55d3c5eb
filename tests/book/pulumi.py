"""`pulumi` as the book's test has it: the rehearsal's verb of the same name.

    python -m tests.book.pulumi up -s prod        →  python -m rehearsal up -y -s rehearsal

The rehearsal's own parser judges the flags, so a verb or flag that it lacks ends with 2, and the
book may not hold it unless `proven.ELSEWHERE` says why. It asks before it changes anything, as the
CLI does; `-y` is the answer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

ASKING = ("up", "refresh", "destroy")


def words(typed: Sequence[str]) -> list[str]:
    """The rehearsal's command line for one of pulumi's."""
    translated = ["rehearsal" if word == "prod" else word for word in typed]
    if translated[:1] and translated[0] in ASKING:
        translated[1:1] = ["--yes", "--skip-preview"]
    return translated


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "rehearsal", *words(sys.argv[1:])]))
