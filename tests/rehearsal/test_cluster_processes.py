"""A node's processes: kept running, ended by who they are, found again after a crash of ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rehearsal.cluster import processes
from rehearsal.cluster.processes import Identity, Supervised, end, end_strays


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Some process that is not ours to end, until a test says so."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def supervised(
    tmp_path: Path, *command: str, on_restart: Callable[[str], None] = lambda _line: None
) -> Supervised:
    log, pid_file = tmp_path / "log", tmp_path / "1" / "run" / "x.pid"
    one = Supervised("x", command, log=log, pid_file=pid_file, on_restart=on_restart)
    return one.start()


def test_a_program_that_ends_is_started_again_and_its_last_words_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_BACKOFF", 0.01)
    told: list[str] = []
    process = supervised(tmp_path, "sh", "-c", "echo no quorum; exit 3", on_restart=told.append)
    until(lambda: process.restarts >= 2)
    process.stop()
    assert told[0].startswith("x ended (exit 3): no quorum; started again in")
    assert process.reason() == "x ended (exit 3): no quorum"


def test_a_program_that_is_to_start_again_does_so_at_once_and_no_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_BACKOFF", 3600.0)
    told: list[str] = []
    process = supervised(tmp_path, "sleep", "60", on_restart=told.append)
    until(lambda: process.pid is not None)
    before = process.pid
    process.start_again()
    until(lambda: process.pid not in (None, before))
    process.stop()
    assert (told, process.reason(), process.restarts) == ([], "", 0)


def test_a_program_that_cannot_be_started_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    process = supervised(tmp_path, "/nowhere/etcd")
    until(process.reason)
    process.stop()
    assert "No such file" in process.reason()


def test_stop_ends_a_program_that_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end, "__defaults__", (0.2,))
    process = supervised(tmp_path, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    until(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    until(lambda: process.pid is not None)  # it may speak before it is written down
    pid = process.pid
    process.stop()
    assert process.pid is None
    assert not Path(f"/proc/{pid}").exists()
    assert not list(tmp_path.glob("*/run/*.pid"))


def test_a_stray_is_found_by_its_file_and_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    identity = Identity.of(sleeper.pid, "honeydue-1 etcd")
    assert identity is not None
    identity.write(tmp_path / "1" / "run" / "etcd.pid")
    assert end_strays(tmp_path) == ["honeydue-1 etcd"]
    assert sleeper.wait() == -signal.SIGTERM
    assert end_strays(tmp_path) == []


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}])
def test_a_pid_that_was_used_again_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    identity = Identity.of(sleeper.pid, "x")
    assert identity is not None
    stale = replace(identity, **change)  # type: ignore[arg-type]  # each change is of its type
    stale.write(tmp_path / "1" / "run" / "x.pid")
    assert end_strays(tmp_path) == []
    assert sleeper.poll() is None


def test_a_broken_pid_file_names_nobody(tmp_path: Path) -> None:
    file = tmp_path / "1" / "run" / "x.pid"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert end_strays(tmp_path) == []
    assert not file.exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_the_children_of_a_killed_parent_die_with_it(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from rehearsal.cluster.processes import Supervised
at = Path({str(tmp_path)!r})
one = Supervised("x", ["sleep", "60"], log=at / "log", pid_file=at / "1/run/x.pid").start()
while not one.pid: time.sleep(0.01)
print(one.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # The kernel must know the wish before its parent dies: `sleep` runs after setpriv's exec.
        until(lambda: Path(f"/proc/{child}/comm").read_text().strip() == "sleep")
        parent.kill()
        until(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    identity = Identity.of(pid, "x")
    return identity is not None and identity.lives()


def test_many_ends_at_once_take_the_time_of_one(tmp_path: Path) -> None:
    many = [
        Supervised(f"x{n}", ["sleep", "60"], log=tmp_path / f"{n}", pid_file=tmp_path / f"{n}.pid")
        for n in range(3)
    ]
    for one in many:
        one.start()
    until(lambda: all(one.pid for one in many))
    stops = [threading.Thread(target=one.stop) for one in many]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    assert not any(one.pid for one in many)
    assert os.listdir(tmp_path)
