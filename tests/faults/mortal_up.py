"""`python -m rehearsal up`, one step after the other, which kills itself at a chosen step.

    cd CHECKOUT && PYTHONPATH=CHECKOUT python …/tests/faults/mortal_up.py MOMENT STEP

MOMENT   begun      the step is in the state as pending, the vendor was not asked
         inside     a little after that, by a timer: somewhere in the middle of the step
         answered   the vendor has answered, the state does not know it
         saved      the state knows it, the next step did not begin
STEP     counts the vendors' steps of this run from 1

First it removes the lock of the run that was killed before. Exit codes as `up`; -9 when killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from typing import Any

from rehearsal.cli import main
from rehearsal.engine.journal import Journal

INSIDE_SECONDS = 0.03
# The same wherever this runs: it need not be imported as part of the tests.
MOMENTS = ("begun", "inside", "answered", "saved")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make_mortal(moment: str, step: int) -> None:
    begin, finish, count = Journal.begin, Journal.finish, 0

    def begins(journal: Journal, *arguments: Any) -> Any:
        nonlocal count
        pending = begin(journal, *arguments)
        count += 1
        if count == step and moment == "begun":
            die()
        if count == step and moment == "inside":
            threading.Timer(INSIDE_SECONDS, die).start()
        return pending

    def finishes(journal: Journal, pending: Any, **changes: Any) -> None:
        if pending is not None and count == step and moment == "answered":
            die()
        finish(journal, pending, **changes)
        if pending is not None and count == step and moment == "saved":
            die()

    setattr(Journal, "begin", begins)  # noqa: B010 - a method is replaced
    setattr(Journal, "finish", finishes)  # noqa: B010


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        main(["cancel"])
    make_mortal(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(["up", "--yes", "--skip-preview", "--parallel", "1"]))
