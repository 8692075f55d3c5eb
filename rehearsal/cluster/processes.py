"""Processes of a node: started, kept running, ended by pid, and found again after a crash of ours.

A pid alone names nobody: it is used again. A process is known by (boot of this machine, pid, start
time), written to a file beside its node; so a later `down` or `serve` ends what a killed serving
process left, and nothing else. Where `setpriv` is there, the kernel also kills a child whose
parent dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

TERM_SECONDS: Final = 5.0
"""How long a process may take to end by itself; an API server drains for longer than we wait."""
LOG_LIMIT: Final = 32 * 1024**2
FIRST_BACKOFF: Final = 0.5
LAST_BACKOFF: Final = 10.0


@dataclass(frozen=True)
class Identity:
    """Which process, on which boot of the machine."""

    pid: int
    start: int  # clock ticks since boot: field 22 of /proc/<pid>/stat
    boot: str
    name: str

    @staticmethod
    def of(pid: int, name: str) -> Identity | None:
        start = _start_time(pid)
        return None if start is None else Identity(pid, start, _boot_id(), name)

    def lives(self) -> bool:
        return self.boot == _boot_id() and _start_time(self.pid) == self.start

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".tmp")
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(file)

    @staticmethod
    def read(file: Path) -> Identity | None:
        try:
            return Identity(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    """None when there is no such process, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in ("Z", "X") else int(fields[19])


def end(identities: Sequence[Identity], seconds: float = TERM_SECONDS) -> list[Identity]:
    """SIGTERM to each (and its group), then SIGKILL; returns those that it found alive."""
    living = [identity for identity in identities if identity.lives()]
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
        for identity in living:
            signal_group(identity, number)
        limit = time.monotonic() + patience
        while any(identity.lives() for identity in living) and time.monotonic() < limit:
            time.sleep(0.02)
    return living


def signal_group(identity: Identity, number: signal.Signals) -> None:
    """To the process and all that it started; nothing where it has ended."""
    if not identity.lives():
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # Each was started as the leader of its own session, so the group is all its own.
        if os.getpgid(identity.pid) == identity.pid:
            os.killpg(identity.pid, number)
        else:
            os.kill(identity.pid, number)


def end_strays(folder: Path, pattern: str = "*/run/*.pid") -> list[str]:
    """Ends what the pid files below `folder` still name; returns the names of what it ended."""
    files = sorted(folder.glob(pattern))
    found = [identity for file in files if (identity := Identity.read(file))]
    ended = end(found)
    for file in files:
        file.unlink(missing_ok=True)
    return [identity.name for identity in ended]


class Supervised:
    """One program that is to run until `stop`: started in a thread of its own, restarted with
    back-off when it ends. `reason()` says how it last ended."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        pid_file: Path,
        environment: dict[str, str] | None = None,
        on_restart: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._command = list(command)
        self._log = log
        self._pid_file = pid_file
        self._environment = environment
        self._on_restart = on_restart
        self._stopping = threading.Event()
        self._again = threading.Event()
        self._lock = threading.Lock()
        self._identity: Identity | None = None
        self._ended = ""
        # The parent-death signal follows the *thread* that forks: this one lives as long as it.
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> Supervised:
        self._thread.start()
        return self

    @property
    def pid(self) -> int | None:
        identity = self._identity
        return identity.pid if identity and identity.lives() else None

    def reason(self) -> str:
        """How it last ended, with its last words; empty while it never did."""
        return self._ended

    def start_again(self) -> None:
        """Ends the program, which is started again at once: no failure of its own."""
        with self._lock:
            self._again.set()
            if self._identity:
                signal_group(self._identity, signal.SIGTERM)

    def ask_to_stop(self) -> None:
        """Begins the end of it; `stop` waits for it."""
        with self._lock:
            self._stopping.set()
            if self._identity:
                signal_group(self._identity, signal.SIGTERM)

    def stop(self) -> None:
        self.ask_to_stop()
        if self._identity:
            end([self._identity])
        if self._thread.is_alive():
            self._thread.join()
        self._pid_file.unlink(missing_ok=True)

    def _keep(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            began = time.monotonic()
            status = self._run()
            if self._stopping.is_set():
                return
            if self._again.is_set():
                self._again.clear()
                continue
            if time.monotonic() - began > 60:
                backoff = FIRST_BACKOFF
            self.restarts += 1
            self._ended = f"{self.name} ended ({status}): {last_words(self._log)}"
            self._on_restart(f"{self._ended}; started again in {backoff:g} s")
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, LAST_BACKOFF)

    def _run(self) -> str:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".old.log"))
        try:
            with self._log.open("ab") as out, self._lock:
                if self._stopping.is_set():
                    return "stopped"
                process = subprocess.Popen(
                    dying_with_parent(self._command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                    cwd=self._log.parent,
                )
                self._identity = Identity.of(process.pid, self.name)
                if self._identity:
                    self._identity.write(self._pid_file)
        except OSError as error:
            return error.strerror or str(error)
        code = process.wait()
        return f"signal {-code}" if code < 0 else f"exit {code}"


def dying_with_parent(command: Sequence[str], number: str = "KILL") -> list[str]:
    """The command, sent that signal by the kernel when the thread that started it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", number, "--", *command] if setpriv else list(command)


def last_words(log: Path, limit: int = 300) -> str:
    """The last line of a log that says something."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "no log"
    telling = [line.strip() for line in lines if line.strip()]
    return telling[-1][:limit] if telling else "it said nothing"
