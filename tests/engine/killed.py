"""`up` killed with SIGKILL at every boundary that it has, one after the other.

    python -m tests.engine.killed FOLDER log|whole    prints one JSON object for each boundary

`log`: every write between the first and the last is a line of the log; `whole`: the checkpoint
follows each time. By itself the engine chooses by the clock, and no two runs would have the same
boundaries.

Each run is a forked child of this process, which has imported everything and started nothing. The
vendor is a file: whoever dies, what was made is made. Boundaries are those of the vendor's calls
(before, after) and of whatever the engine writes (each fsync, link and rename).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rehearsal.engine import journal, secrets
from rehearsal.engine.deployment import Deployment, Project
from rehearsal.engine.errors import EngineError
from rehearsal.engine.provider import Context, Properties, ProviderError
from rehearsal.engine.state import Backend
from tests.engine.fake import Vendor, write_project

REPLACE = os.replace
FIRST = """
a = Thing("a", value="1", name="a", opts=opts())
b = Thing("b", value=a.computed, name="b", opts=opts())
Thing("c", value=b.computed, name="c", opts=opts())
d = Thing("d", name="d/1", value=a.computed, opts=opts(delete_before_replace=True))
e = Thing("e", name="e-1", value=d.computed, opts=opts())
"""
# a is changed, b and with it c go, d is replaced delete-first, e create-first, f is new.
SECOND = """
a = Thing("a", value="2", name="a", opts=opts())
d = Thing("d", name="d/2", value=a.computed, opts=opts(delete_before_replace=True))
e = Thing("e", name="e-2", value=d.computed, opts=opts())
f = Thing("f", name="f", value=e.computed, opts=opts())
"""
WANTED = {"a": "a", "d": "d/2", "e": "e-2", "f": "f"}


class Store(Vendor):
    """A vendor with unique names, in a file. `tick` is called at each boundary with its name."""

    def __init__(self, file: Path, tick: Callable[[str], None]) -> None:
        super().__init__()
        self._file, self._tick = file, tick
        if file.exists():
            self.things, self._next = json.loads(file.read_text())
        self.on_call = lambda operation, name: tick(f"before {operation} {name}")
        self.on_done = lambda operation, name, _id: self._done(operation, name)

    def made(self, ctx: Context, inputs: Properties) -> tuple[str, Properties]:
        unique = inputs["name"].partition("/")[0]
        if unique in (thing["name"].partition("/")[0] for thing in self.things.values()):
            raise ProviderError(f"uniqueness_error: {unique}")
        return super().made(ctx, inputs)

    def _done(self, operation: str, name: str) -> None:
        with self.lock:
            fresh = self._file.with_suffix(".fresh")
            fresh.write_text(json.dumps([self.things, self._next]))
            REPLACE(fresh, self._file)  # a vendor does not die with its client
        self._tick(f"after {operation} {name}")


class Killer:
    """Kills this process at the `at`-th boundary, whatever thread reaches it."""

    def __init__(self, at: int | None, told: Path) -> None:
        self._at, self._told, self._seen, self._lock = at, told, 0, threading.Lock()

    def __call__(self, boundary: str) -> None:
        with self._lock:
            if self._seen == self._at:
                self._told.write_text(boundary)
                os.kill(os.getpid(), signal.SIGKILL)
            self._seen += 1

    def watch_writes(self) -> None:
        for name in ("fsync", "link", "replace"):
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            path = Path(str(arguments[-1])).name if name != "fsync" else ""
            self(f"before {name} {path.removesuffix('.bak')}".strip())
            return real(*arguments)

        return call


def deployment(folder: Path, tick: Callable[[str], None]) -> Deployment:
    vendor = Store(folder / "vendor.json", tick)
    project = Project.load(folder / "project")
    # One step at a time: the boundaries of two runs must be the same, to be killed at each.
    return Deployment(
        project, "dev", Backend(folder / "state"), load_provider=vendor.load, parallel=1
    )


def up(folder: Path, at: int | None) -> None:
    killer = Killer(at, folder / "boundary")
    killer.watch_writes()
    result = deployment(folder, killer).up(lambda _event: None)
    assert result.ok, result.errors


def converge(folder: Path) -> None:
    """The dead one's lock is told and taken away; then one `up` brings everything about."""
    engine = deployment(folder, lambda _boundary: None)
    refusal = ""
    try:
        engine.up(lambda _event: None)
    except EngineError as error:
        refusal = str(error)
    if refusal:
        assert "That process is gone (killed?)" in refusal
        assert "python -m rehearsal cancel --stack dev" in refusal
        assert engine.cancel() == 1
        result = engine.up(lambda _event: None)
        assert result.ok, result.errors
    vendor = json.loads((folder / "vendor.json").read_text())[0]
    assert {t["logical"]: t["name"] for t in vendor.values()} == WANTED, vendor
    assert len(vendor) == len(WANTED), vendor
    exported = engine.export()["deployment"]
    assert "pending_operations" not in exported
    things = [r for r in exported["resources"] if r["type"] == "fake:index:Thing"]
    assert {r["id"] for r in things} == vendor.keys(), things
    assert len(things) == len(vendor)
    ids = {t["logical"]: id_ for id_, t in vendor.items()}
    assert vendor[ids["a"]]["value"] == "2"
    for user, used in ("d", "a"), ("e", "d"), ("f", "e"):
        assert vendor[ids[user]]["value"] == f"computed-{ids[used]}", vendor
    assert engine.preview(lambda _event: None).changes == {"same": 6}


def in_child(act: Callable[[], None]) -> int:
    """The signal that ended it; 0 when it ended well, -1 when it failed (and said why)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def main(folder: Path, share_of_writing: float) -> None:
    journal.SHARE_OF_WRITING = share_of_writing  # type: ignore[misc]  # see above
    secrets._ROUNDS = 1000
    start = folder / "start"
    write_project(start / "project", FIRST)
    assert in_child(lambda: up(start, None)) == 0
    write_project(start / "project", SECOND)
    at = 0
    while True:
        copy = folder / f"at-{at}"
        shutil.copytree(start, copy)
        ended = in_child(lambda copy=copy, at=at: up(copy, at))  # type: ignore[misc]
        boundary = (copy / "boundary").read_text() if ended == signal.SIGKILL else "the end"
        converged = in_child(lambda copy=copy: converge(copy)) == 0  # type: ignore[misc]
        print(json.dumps({"at": at, "boundary": boundary, "converged": converged}), flush=True)
        if ended != signal.SIGKILL:
            return
        at += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), {"log": 0.0, "whole": float("inf")}[sys.argv[2]])
