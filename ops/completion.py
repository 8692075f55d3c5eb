"""`ops completion`: what a shell sources so that Tab completes verbs, options and services.

`python -m ops` is no command that a shell could complete, so the script also defines `ops`, which
is the same from whichever folder. The scripts are typer's; they would run `ops` as a program. It
has no public name for them; its version is pinned, and a test sources what comes out.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Final, Literal

from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

VARIABLE: Final = "_OPS_COMPLETE"
"""By it the shell tells that it asks what may follow."""

Shell = Literal["bash", "zsh", "fish"]
# How typer's scripts run what they complete.
_RUNS: Final = {
    "bash": "=complete_bash $1",
    "zsh": "=complete_zsh ops",
    "fish": "(commandline -cp) ops",
}


def prepare() -> None:
    """Whoever asks by VARIABLE is answered, which typer only does by itself where it has its own
    options for it."""
    if VARIABLE in os.environ:
        completion_init()


def script(shell: Shell) -> str:
    root = Path(__file__).parent.parent
    command = f"env PYTHONPATH={shlex.quote(str(root))} {shlex.quote(sys.executable)} -m ops"
    theirs = get_completion_script(prog_name="ops", complete_var=VARIABLE, shell=shell)
    asked, _, _ = _RUNS[shell].rpartition(" ")
    completes = theirs.replace(_RUNS[shell], f"{asked} {command}")
    ops = (
        f"function ops; {command} $argv; end" if shell == "fish" else f'ops() {{ {command} "$@"; }}'
    )
    return f"{ops}\n{completes}"
