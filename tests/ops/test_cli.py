"""What holds for every verb."""

from __future__ import annotations

import io
import sys

import pytest

from ops import cli
from ops.problems import refused


def test_a_terminal_that_has_no_arrow_ends_no_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def verb(**_: object) -> None:
        cli.console().print("237c6b8 → 1a2b3c4")
        raise refused("a…", "b")

    monkeypatch.setattr(cli, "app", verb)
    assert cli.main([]) == 1
    for stream, said in ((out, "237c6b8 ? 1a2b3c4\n"), (err, "error: a?\n    mend   b\n")):
        stream.flush()
        assert stream.buffer.getvalue().decode("ascii") == said
