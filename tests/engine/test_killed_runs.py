"""kill -9 at each boundary of a step: nothing is lost, and the next `up` converges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import Lab, urn

RUNNER = """
import json, os, signal, sys
from pathlib import Path
from rehearsal.engine import secrets
from rehearsal.engine.deployment import Deployment, Project
from rehearsal.engine.state import Backend
from tests.engine.fake import Vendor

folder, operation, name, moment = Path(sys.argv[1]), *sys.argv[2:5]
secrets._ROUNDS = 1000
store = folder / "vendor.json"
vendor = Vendor()
if store.exists():
    vendor.things = json.loads(store.read_text())
    vendor._next = len(vendor.things)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def called(what, which):
    if (what, which, "before") == (operation, name, moment):
        die()
vendor.on_call = called

class Saving(Backend):
    # The vendor is saved whenever the state is: what a call made is there, whoever dies then.
    def save(self, *args):
        self.written(super().save, args)

    def note(self, *args):
        self.written(super().note, args)

    def written(self, write, args):
        store.write_text(json.dumps(vendor.things))
        due = (operation, name) in {(o, n) for o, n in vendor.calls}
        if moment == "unsaved" and due:
            die()
        write(*args)
        if moment == "saved" and due:
            die()

project = Project.load(folder / "project")
backend = Saving(folder / "state")
result = Deployment(project, "dev", backend, load_provider=vendor.load).up(lambda e: None)
sys.exit(0 if result.ok else 1)
"""
FIRST = 'a = Thing("a", value="1", opts=opts())\nThing("b", value=a.computed, opts=opts())'
SECOND = """
a = Thing("a", value="2", opts=opts())
Thing("c", value=a.computed, opts=opts())
"""


def killed_up(lab: Lab, operation: str, name: str, moment: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", RUNNER, str(lab.folder), operation, name, moment],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize(
    ("operation", "name", "moment", "pending"),
    [
        ("create", "c", "before", [("creating", "c")]),
        ("create", "c", "unsaved", [("creating", "c")]),
        ("create", "c", "saved", []),
        ("update", "a", "unsaved", [("updating", "a")]),
        ("delete", "b", "before", [("deleting", "b")]),
        ("delete", "b", "unsaved", [("deleting", "b")]),
    ],
)
def test_a_killed_up_is_told_and_finished_by_the_next(
    lab: Lab, operation: str, name: str, moment: str, pending: list[tuple[str, str]]
) -> None:
    lab.up(FIRST)
    (lab.folder / "vendor.json").write_text(json.dumps(lab.vendor.things))
    lab.program(SECOND)
    killed_up(lab, operation, name, moment)

    deployment = lab.deployment()
    left = deployment.export()["deployment"]
    assert [
        (p["type"], p["resource"]["urn"].rsplit("::")[-1])
        for p in left.get("pending_operations", [])
    ] == pending
    lab.vendor.things = json.loads((lab.folder / "vendor.json").read_text())
    lab.vendor._next = 10
    assert deployment.cancel() == 1  # the dead one's lock

    lab.up()
    warnings = lab.diagnostics("warning")
    assert len(warnings) == len(pending)
    for (kind, of), warning in zip(pending, warnings, strict=True):
        assert warning.startswith(f"resource {urn(of)} was being {kind[:-3]}")
    assert lab.names == ["shop-dev", "fake", "a", "c"]
    assert lab.vendor.ids("b") == []
    assert lab.vendor.things[lab.in_state("a")["id"]]["value"] == "2"
    assert lab.in_state("c")["id"] in lab.vendor.ids("c")
    assert "pending_operations" not in lab.deployment().export()["deployment"]
    assert lab.preview().changes == {"same": 4}
