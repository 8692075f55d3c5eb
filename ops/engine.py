"""The one seam to what runs the stack: the Pulumi CLI, or the rehearsal with the same verbs.

Either is a child process, so that a stack is read exactly as its own engine reads it: nothing here
decrypts. No secret is in a command line, and what a child prints is kept in memory; only `preview`
and `up` print for themselves.

    Engine.find(None, None)   `pulumi` where it is installed, for every stack but `rehearsal`;
                              else `python -m rehearsal`

What no verb tells (past checkpoints, who is at work) stands in the backend: a folder in the layout
of Pulumi's DIY backend (pkg/backend/diy: lock.go, state.go), or Pulumi Cloud.
"""

from __future__ import annotations

import getpass
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from ops.problems import Refused, refused

Kind = Literal["pulumi", "rehearsal"]

REPOSITORY: Final = Path(__file__).resolve().parent.parent
REHEARSAL: Final = "rehearsal"
_SECONDS: Final = 120.0  # for a child that only reads; the passphrase's key alone takes one
_HISTORY_PAGE: Final = 50


@dataclass(frozen=True)
class Configured:
    """A stack's settings by their short keys, as the program is given them; `values` in clear."""

    values: dict[str, Any] = field(repr=False)
    secret_keys: frozenset[str]


@dataclass(frozen=True)
class Engine:
    """One stack, by the CLI that owns it. Everything that it raises is a `Refused`."""

    kind: Kind
    stack: str
    folder: Path = REPOSITORY  # of Pulumi.yaml

    @staticmethod
    def find(stack: str | None, kind: Kind | None, folder: Path = REPOSITORY) -> Engine:
        """Without a stack: production where Pulumi is installed, else the rehearsal; so does the
        Makefile."""
        installed = shutil.which("pulumi") is not None
        if kind == "pulumi" and not installed:
            raise refused(
                "--engine pulumi: there is no `pulumi` on the PATH",
                "install it from pulumi.com, or rehearse: --engine rehearsal",
            )
        if stack is None:
            stack = "prod" if installed and kind != "rehearsal" else REHEARSAL
        if kind is None:
            kind = "pulumi" if installed and stack != REHEARSAL else "rehearsal"
        return Engine(kind, stack, folder)

    # What the stack is

    def config(self) -> dict[str, Any]:
        """The program's settings by their short keys (`registry`), decrypted."""
        return self.configured().values

    def configured(self) -> Configured:
        """The same, and which of the keys are encrypted in the stack's file."""
        said = {
            key.removeprefix(f"{self.project}:"): entry
            for key, entry in self._json("config", "--show-secrets", "--json").items()
        }
        return Configured(
            {key: entry.get("objectValue", entry.get("value")) for key, entry in said.items()},
            frozenset(key for key, entry in said.items() if entry.get("secret")),
        )

    def set(self, key: str, value: str, *, secret: bool) -> None:
        """`honeydue:registry.token`; the value goes by standard input, which no `ps` shows."""
        flags = ("--path", "--secret") if secret else ("--path",)
        self._run("config", "set", *flags, key, stdin=value)

    def unset(self, key: str) -> None:
        """Takes out what `set` put in."""
        self._run("config", "rm", "--path", key)

    # What the stack does, before the operator's eyes

    def preview(self) -> int:
        """What `up` would do, printed by the engine itself; the engine's exit code."""
        return self._stream("preview")

    def up(self) -> int:
        """Does it, without a second preview; the engine's exit code. Ctrl-C reaches the engine by
        the terminal and ends it in order; it is waited for."""
        return self._stream("up", "--yes", "--skip-preview")

    def outputs(self) -> dict[str, Any]:
        """Decrypted; empty for a stack that never ran."""
        return dict(self._json("stack", "output", "--show-secrets", "--json"))

    def state(self) -> Any:
        """The checkpoint as it is now, secrets encrypted."""
        return self._json("stack", "export")

    def history(self) -> Iterator[Any]:
        """The checkpoint that each past update left, newest first."""
        return self._cloud_history() if self._files is None else self._files.history()

    def updates(self) -> list[Any]:
        """The CLI's records of the last runs (kind, startTime, result, …), newest first."""
        if self._local is not None:  # a file instead of a process
            return self._local.updates(_HISTORY_PAGE)
        # A history grows for ever, and the CLI prints all of it unless told; the rehearsal does.
        page = ("--page-size", str(_HISTORY_PAGE), "--page", "1") if self.kind == "pulumi" else ()
        return list(self._json("stack", "history", "--json", *page) or [])

    def locate(self) -> None:
        """Finds out where the state is, for those who ask at the same time."""
        _ = self._url

    def last_state(self) -> Any:
        """The checkpoint that the last run left, secrets encrypted; None before the first one."""
        return self.state() if self._local is None else next(self._local.history(), None)

    def holders(self) -> list[str] | None:
        """Who runs something on the stack now, and since when; nobody: empty. None: the state is in
        a bucket, whose locks no verb shows."""
        if self._local is not None:
            return self._local.holders()
        if not self._url.startswith(("http://", "https://")):
            return None
        return [
            "somebody (Pulumi Cloud does not say who)"
            for summary in self._json("stack", "ls", "--json", scoped=False)
            if summary["name"].split("/")[-1] == self.stack and summary.get("updateInProgress")
        ]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps every run of the stack out, or raises Refused while there is one.

        A folder is locked as a run would lock it. Pulumi Cloud locks for its own runs only: there
        a run is looked for, and one that begins a moment later is not seen."""
        if self._files is not None:
            with self._files.lock():
                yield
            return
        for summary in self._json("stack", "ls", "--json", scoped=False):
            if summary["name"].split("/")[-1] == self.stack and summary.get("updateInProgress"):
                raise refused(
                    f"a run of the stack {self.stack} is under way",
                    "wait until it has ended, and run the same again",
                )
        yield

    @cached_property
    def project(self) -> str:
        return str(yaml.safe_load((self.folder / "Pulumi.yaml").read_text())["name"])

    # The backend

    @cached_property
    def _url(self) -> str:
        return str(self._json("whoami", "--json", scoped=False)["url"])

    @property
    def _local(self) -> _Files | None:
        """The same where one can do without it."""
        return self._files if self._url.startswith("file://") else None

    @cached_property
    def _files(self) -> _Files | None:
        """The folder of a DIY backend; None: Pulumi Cloud."""
        url = self._url
        if url.startswith("file://"):
            folder = Path(url.removeprefix("file://").split("?")[0]).expanduser()
            return _Files(self.folder / folder, self.project, self.stack)
        if url.startswith(("http://", "https://")):
            return None
        raise refused(
            f"the past states of {self.stack} cannot be listed: no verb of Pulumi lists them in "
            f"{url.split('?', maxsplit=1)[0]}",
            "copy that bucket to a folder (rclone copy … ./state) while nobody deploys, and run "
            "this with PULUMI_BACKEND_URL=file://$PWD/state",
        )

    def _cloud_history(self) -> Iterator[Any]:
        page = 1
        while True:
            words = ("--page-size", str(_HISTORY_PAGE), "--page", str(page))
            updates = self._json("stack", "history", "--json", *words) or []
            for update in updates:
                yield self._json("stack", "export", "--version", str(update["version"]))
            if len(updates) < _HISTORY_PAGE:
                return
            page += 1

    # Children

    def _json(self, *words: str, scoped: bool = True) -> Any:
        said = self._run(*words, scoped=scoped)
        try:
            return json.loads(said)
        except ValueError:
            raise self._failed(words, "it printed no JSON") from None

    def _run(self, *words: str, scoped: bool = True, stdin: str = "") -> str:
        """What the engine's CLI prints. Refused: with its own words when it fails."""
        scope = ("--stack", self.stack) if scoped else ()
        try:
            done = subprocess.run(
                [*self._command, *words, *scope],
                cwd=self.folder,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise self._failed(words, str(cause)) from None
        if done.returncode:
            # The engines mask secrets in what they say of a failure.
            said = done.stderr.strip().removeprefix("error: ")
            raise self._failed(words, said or f"it ended with {done.returncode}")
        return done.stdout

    def _stream(self, *words: str) -> int:
        sys.stdout.flush()
        command = [*self._command, *words, "--stack", self.stack]
        try:
            with _interrupts_left_to_the_child():
                child = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL)
                code = child.wait()
        except OSError as cause:
            raise self._failed(words, str(cause)) from None
        return code if code >= 0 else 128 - code  # by a signal: the shells' code

    def _failed(self, words: Sequence[str], said: str) -> Refused:
        asked = " ".join(words)
        by_hand = "pulumi --non-interactive" if self.kind == "pulumi" else "python -m rehearsal"
        return refused(
            f"{self.kind} {asked}: {said}",
            f"{by_hand} {asked} --stack {self.stack} must work by itself first",
        )

    @property
    def _command(self) -> list[str]:
        if self.kind == "pulumi":
            return ["pulumi", "--non-interactive"]
        return [sys.executable, "-m", "rehearsal"]


@contextmanager
def _interrupts_left_to_the_child() -> Iterator[None]:
    """The terminal sends Ctrl-C to both. A handler of Python's, unlike SIG_IGN, is not inherited,
    and unlike the default one it does not make us leave, or kill, a child that is ending well."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler can be set, and no Ctrl-C arrives
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class _Files:
    """`.pulumi` of one stack in the folder `root`."""

    root: Path
    project: str
    stack: str

    def history(self) -> Iterator[Any]:
        folder = self.root / ".pulumi" / "history" / self.project / self.stack
        if not self.root.is_dir():
            raise refused(f"the state's folder {self.root} is not there", "pulumi login file://…")
        for record in sorted(folder.glob(f"{self.stack}-*.history.json*"), reverse=True):
            path = record.with_name(record.name.replace(".history.json", ".checkpoint.json"))
            try:
                content = path.read_bytes()
                yield json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
            except (OSError, EOFError, ValueError) as cause:
                said = cause.strerror if isinstance(cause, OSError) and cause.strerror else cause
                raise refused(
                    f"a past state of {self.stack} cannot be read: {path}: {said}",
                    f"bring it back from the state's backup; or, if what it deployed may go: "
                    f"rm {record}",
                ) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Ours is written before the others are looked for, as Pulumi does: of two that start
        together both may be refused, but never neither."""
        mine = self._locks / f"{uuid.uuid4()}.json"
        holder = {
            "pid": os.getpid(),
            "username": getpass.getuser(),
            "hostname": socket.gethostname(),
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        try:
            try:
                mine.parent.mkdir(parents=True, exist_ok=True)
                mine.write_text(json.dumps(holder))
            except OSError as cause:
                raise refused(
                    f"cannot lock the stack {self.stack}: {mine}: {cause.strerror}",
                    f"mend the rights of {self._locks}, or free some space there",
                ) from None
            others = [path for path in sorted(self._locks.glob("*.json")) if path != mine]
            if others:
                raise refused(
                    f"the stack {self.stack} is locked by {'; '.join(map(_holder, others))}",
                    "wait until that run has ended, and run the same again; if there is none: "
                    f"pulumi cancel {self.stack} (python -m rehearsal cancel --stack {self.stack})",
                )
            yield
        finally:
            with suppress(OSError):
                mine.unlink()

    def updates(self, count: int) -> list[Any]:
        """The newest so many. One that cannot be read is left out: it says nothing of the rest."""
        folder = self.root / ".pulumi" / "history" / self.project / self.stack
        found = []
        for path in sorted(folder.glob(f"{self.stack}-*.history.json*"), reverse=True)[:count]:
            with suppress(OSError, EOFError, ValueError):
                content = path.read_bytes()
                found.append(
                    json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
                )
        return found

    def holders(self) -> list[str]:
        return [_holder(path) for path in sorted(self._locks.glob("*.json"))]

    @property
    def _locks(self) -> Path:
        return self.root / ".pulumi" / "locks" / "organization" / self.project / self.stack


def _holder(lock: Path) -> str:
    try:
        held = json.loads(lock.read_text())
        gone = held["hostname"] == socket.gethostname() and not _alive(int(held["pid"]))
        return "{username}@{hostname} (pid {pid}) since {timestamp}".format(**held) + (
            "; that process is gone" if gone else ""
        )
    except (OSError, ValueError, LookupError, TypeError):
        return f"{lock} (unreadable)"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
