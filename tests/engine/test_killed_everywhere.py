"""SIGKILL at every boundary of one `up` that updates, creates, deletes and replaces both ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("writes", ["log", "whole"])
def test_an_up_killed_at_any_boundary_is_finished_by_the_next_and_nothing_is_doubled_or_orphaned(
    tmp_path: Path, writes: str
) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.engine.killed", str(tmp_path), writes],
        cwd=REPOSITORY,
        env={**os.environ, "PULUMI_CONFIG_PASSPHRASE": "correct horse"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr
    seen = [json.loads(line) for line in process.stdout.splitlines()]
    assert [s for s in seen if not s["converged"]] == [], process.stderr
    boundaries = {s["boundary"] for s in seen}
    calls = {"update a", "delete d", "create d", "create e", "create f", "delete c", "delete e"}
    for moment in ("before", "after"):
        assert {f"{moment} {call}" for call in calls} <= boundaries
    assert "before replace dev.json" in boundaries
    assert boundaries >= {"before fsync", "the end"}
