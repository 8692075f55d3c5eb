"""What a child process prints, as it comes.

Into a file and no pipe: a child whose reader is killed must not die of its next line.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from typing import IO, Final

_PAUSE: Final = 0.02  # seconds


def lines(told: IO[bytes], child: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """Until it has ended, what it writes to `told`; None: nothing is new."""
    position, rest = 0, b""
    while True:
        over = child.poll() is not None  # asked before the last reading, so that none is lost
        while said := os.pread(told.fileno(), 1 << 16, position):
            position += len(said)
            *whole, rest = (rest + said).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if over:
            if rest:
                yield rest.decode(errors="replace")
            return
        yield None
        time.sleep(_PAUSE)
