"""A terminal of another encoding than UTF-8 breaks no run off."""

from __future__ import annotations

import argparse
import io
import sys

import pytest
from rich.console import Console

from rehearsal import cli


class Shows:
    def parse_args(self, _arguments: object) -> argparse.Namespace:
        def verb(_options: argparse.Namespace, console: Console) -> int:
            console.print("± images-api …")
            return 0

        return argparse.Namespace(verb=verb)


def test_a_line_that_the_terminal_cannot_show_whole_breaks_no_run_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(cli, "parser", Shows)
    assert cli.main([]) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"? images-api ?\n"
