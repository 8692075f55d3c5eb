"""The log beside the checkpoint: durable, whole or absent, and never that of another state."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rehearsal.engine import journal, wal
from rehearsal.engine.deployment import Deployment, Project
from rehearsal.engine.errors import EngineError
from rehearsal.engine.state import Backend
from tests.engine.conftest import Lab

SHARE_OF_WRITING = journal.SHARE_OF_WRITING
PROGRAM = 'a = Thing("a", value="1", opts=opts())\nThing("b", value=a.computed, opts=opts())'


class Keeping(Backend):
    """Keeps a copy of its folder after each write: every state that a killed run could leave."""

    def save(self, project: str, stack: str, deployment: dict[str, Any]) -> None:
        super().save(project, stack, deployment)
        self._keep()

    def note(self, project: str, stack: str, entry: wal.Entry) -> None:
        super().note(project, stack, entry)
        self._keep()

    def _keep(self) -> None:
        count = len(list(self.root.parent.glob("copy-*")))
        shutil.copytree(self.root, self.root.parent / f"copy-{count:03}")


def _log(backend: Backend) -> Path:
    path = backend.path("shop", "dev")
    return path.with_name(path.name + ".wal")


def _copies(lab: Lab, program: str) -> list[Backend]:
    lab.program(program)
    keeping = Keeping(lab.folder / "state")
    project = Project.load(lab.folder / "project")
    result = Deployment(project, "dev", keeping, load_provider=lab.vendor.load).up(lambda _: None)
    assert result.ok
    return [Backend(copy) for copy in sorted(lab.folder.glob("copy-*"))]


def _state(backend: Backend) -> tuple[list[str], list[str]]:
    """Names in the state, and what was under way."""
    raw = backend.load("shop", "dev")
    assert raw is not None
    pending = [p["resource"]["urn"] for p in raw.get("pending_operations", ())]
    names = [r["urn"] for r in raw["resources"]]
    return [n.rpartition("::")[2] for n in names], [p.rpartition("::")[2] for p in pending]


def test_every_write_of_a_run_leaves_a_state_that_can_be_read(lab: Lab) -> None:
    copies = _copies(lab, PROGRAM)
    assert [_state(copy) for copy in copies] == [
        (["shop-dev", "fake"], ["a"]),  # saved whole, then noted
        (["shop-dev", "fake", "a"], []),
        (["shop-dev", "fake", "a"], ["b"]),
        (["shop-dev", "fake", "a", "b"], []),
        (["shop-dev", "fake", "a", "b"], []),  # saved whole again
    ]
    assert [_log(copy).exists() for copy in copies] == [False, True, True, True, False]
    assert not _log(lab.backend).exists()


def test_the_last_state_of_the_log_is_the_one_that_is_saved_whole(lab: Lab) -> None:
    lab.up(PROGRAM)
    changed = PROGRAM.replace('"1"', '"2"') + '\nThing("c", name="x", opts=opts())'
    lab.up('Thing("gone", opts=opts())\n' + PROGRAM)
    *_, noted, saved = _copies(lab, changed)
    assert _log(noted).exists()
    assert not _log(saved).exists()
    before, after = noted.load("shop", "dev"), saved.load("shop", "dev")
    assert before is not None
    assert after is not None
    assert before["resources"] == after["resources"]


def test_a_last_line_that_was_cut_off_does_not_count(lab: Lab) -> None:
    copy = _copies(lab, PROGRAM)[3]
    whole = _log(copy).read_text()
    _log(copy).write_text(whole[:-20])
    assert _state(copy) == (["shop-dev", "fake", "a"], ["b"])


def test_a_damaged_line_before_others_is_told_with_a_way_on(lab: Lab) -> None:
    copy = _copies(lab, PROGRAM)[3]
    lines = _log(copy).read_text().splitlines()
    _log(copy).write_text("\n".join([lines[0], "{", *lines[2:], ""]))
    with pytest.raises(EngineError, match=re.escape(f"mv {_log(copy)} {_log(copy)}.damaged")):
        copy.load("shop", "dev")


def test_a_log_of_the_save_before_is_done_with(lab: Lab) -> None:
    """Killed between the last save and the removal of the log."""
    copies = _copies(lab, PROGRAM)
    shutil.copy(_log(copies[3]), _log(copies[4]))
    assert copies[4].load("shop", "dev") == lab.backend.load("shop", "dev")


def test_a_log_of_another_state_is_refused(lab: Lab) -> None:
    copy = _copies(lab, PROGRAM)[3]
    path = copy.path("shop", "dev")
    checkpoint = json.loads(path.read_text())
    checkpoint["checkpoint"]["latest"]["resources"] = []
    path.write_text(json.dumps(checkpoint))
    with pytest.raises(EngineError, match=r"is not the state that the log of a killed run"):
        copy.load("shop", "dev")


def test_cancel_leaves_the_checkpoint_that_the_real_cli_reads(lab: Lab) -> None:
    copy = _copies(lab, PROGRAM)[3]
    project = Project.load(lab.folder / "project")
    assert Deployment(project, "dev", copy, load_provider=lab.vendor.load).cancel() == 1
    assert not _log(copy).exists()
    raw = json.loads(copy.path("shop", "dev").read_text())["checkpoint"]["latest"]
    assert [r["urn"].rpartition("::")[2] for r in raw["resources"]] == [
        "shop-dev",
        "fake",
        "a",
        "b",
    ]


def test_a_step_costs_one_line_however_large_the_state_is(lab: Lab) -> None:
    many = "\n".join(f'Thing("t{i}", value="x" * 500, opts=opts())' for i in range(40))
    lab.up(many)
    writes: list[int] = []

    class Counting(Backend):
        def save(self, project: str, stack: str, deployment: dict[str, Any]) -> None:
            super().save(project, stack, deployment)
            writes.append(0)

        def note(self, project: str, stack: str, entry: wal.Entry) -> None:
            super().note(project, stack, entry)
            writes.append(len(wal.line(entry)))

    lab.program(many.replace("* 500", "* 501"))
    project = Project.load(lab.folder / "project")
    counting = Counting(lab.folder / "state")
    assert Deployment(project, "dev", counting, load_provider=lab.vendor.load).up(lambda _: None).ok
    assert writes.count(0) == 2
    assert max(writes) < 5000


def test_everything_is_saved_whole_while_that_has_cost_less_than_a_tenth_of_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own, on which only writing takes time: whole 1 s, each line 4 s."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    class Timed(Backend):
        def save(self, project: str, stack: str, deployment: dict[str, Any]) -> None:
            super().save(project, stack, deployment)
            clock.now += 1
            writes.append("whole")

        def note(self, project: str, stack: str, entry: wal.Entry) -> None:
            super().note(project, stack, entry)
            clock.now += 4
            writes.append("line")

    monkeypatch.setattr(journal, "SHARE_OF_WRITING", SHARE_OF_WRITING)
    monkeypatch.setattr(journal, "time", clock := Clock())
    writes: list[str] = []
    lab.program("\n".join(f'Thing("t{i}", opts=opts())' for i in range(6)))
    project = Project.load(lab.folder / "project")
    timed = Timed(lab.folder / "state")
    engine = Deployment(project, "dev", timed, load_provider=lab.vendor.load, parallel=1)
    assert engine.up(lambda _: None).ok
    # The second when more than 20 s are over (of which two are a tenth), the third after 30 s, the
    # fourth after 40 s; then the last.
    assert "".join(write[0] for write in writes) == "wlllllwlllwllwlw"
