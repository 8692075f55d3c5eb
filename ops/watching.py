"""Shows the status once, or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.live import Live

from ops.engine import Engine
from ops.status import Report, reading
from ops.status_screen import document, screen

SECONDS: Final = 2.0


def watch(
    engine: Engine,
    console: Console,
    *,
    again: bool,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether production was healthy when last looked at. Ctrl-C ends it."""
    read = reading(engine)
    report = read()
    if not again:
        _show(report, console, as_json=as_json)
        return report.healthy
    try:
        # A pipe has no screen to draw over: there each look is told by itself.
        if as_json or not console.is_terminal:
            while True:
                _show(report, console, as_json=as_json, indent=None)
                sleep(SECONDS)
                report = read()
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                live.update(screen(report), refresh=True)
                sleep(SECONDS)
                report = read()
    except KeyboardInterrupt:
        return report.healthy


def _show(report: Report, console: Console, *, as_json: bool, indent: int | None = 2) -> None:
    if as_json:
        print(json.dumps(document(report), indent=indent), flush=True)
    else:
        console.print(screen(report))
