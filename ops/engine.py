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
import tempfile
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from ops.child import lines
from ops.problems import Problem, Refused, refused

Kind = Literal["pulumi", "rehearsal"]

REPOSITORY: Final = Path(__file__).resolve().parent.parent
REHEARSAL: Final = "rehearsal"
CLOUDFLARE: Final = "https://api.cloudflare.com/client/v4"
_SECONDS: Final = 120.0  # for a child that only reads; the passphrase's key alone takes one
_PLAN_SECONDS: Final = 900.0  # a preview asks vendors, and a slow one is no failure
_HISTORY_PAGE: Final = 50
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Configured:
    """A stack's settings by their short keys, as the program is given them; `values` in clear."""

    values: dict[str, Any] = field(repr=False)
    secret_keys: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One past run of the engine. `number`: it was the n-th that the backend remembers; Pulumi
    Cloud calls it the version."""

    number: int
    kind: str  # "update", "refresh", "destroy", …
    result: str  # "succeeded", "failed", "in-progress"
    started: datetime
    ended: datetime
    message: str
    changes: Mapping[str, int]
    environment: Mapping[str, str]
    config: Mapping[str, Any] = field(repr=False)  # raw: secrets stay encrypted
    checkpoint: Callable[[], Any] = field(repr=False)  # loads what it left; see `resources_of`


@dataclass(frozen=True)
class Edge:
    """Where the final URLs are asked instead of what DNS says, and who signed for them."""

    host: str
    port: int
    ca: str


def resources_of(checkpoint: Any) -> list[dict[str, Any]]:
    """Of a checkpoint in either of its shapes: a file of the history, or `stack export`."""
    found = checkpoint.get("deployment") or checkpoint.get("checkpoint", {}).get("latest") or {}
    return list(found.get("resources") or ())


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
        # The CLI takes one line break from the end; a key in PEM has one of its own.
        self._run("config", "set", *flags, key, stdin=f"{value}\n")

    def unset(self, key: str) -> None:
        """Takes out what `set` put in."""
        self._run("config", "rm", "--path", key)

    # What the stack does, before the operator's eyes

    def preview(self) -> int:
        """What `up` would do, printed by the engine itself; the engine's exit code."""
        return self._stream("preview")

    def plan(self) -> Any:
        """What `up` would do, as the CLI's preview digest (pkg/display: PreviewDigest)."""
        done = self._child("preview", "--json", seconds=_PLAN_SECONDS)
        try:
            digest = json.loads(done.stdout)
        except ValueError:
            digest = {}
        for each in digest.get("diagnostics") or ():
            # The CLI puts the severity before the message, too (backend/display/json.go).
            message = str(each.get("message", "")).strip()
            each["message"] = message.removeprefix(f"{each.get('severity')}: ")
        if done.returncode or not digest:
            # A failed preview still prints its digest, with what was said of each resource.
            said = [
                each["message"]
                for each in digest.get("diagnostics") or ()
                if each.get("severity") == "error"
            ]
            told = "\n".join(filter(None, said)) or done.stderr.strip().removeprefix("error: ")
            raise self._failed(("preview",), told or f"it ended with {done.returncode}")
        return digest

    def up(
        self,
        message: str = "",
        each: Callable[[str], None] | None = None,
        begun: Callable[[subprocess.Popen[bytes]], None] | None = None,
    ) -> int:
        """Does it, without a second preview; the engine's exit code. Ctrl-C reaches the engine by
        the terminal and ends it in order; it is waited for.

        `message` stays in the history. `each` is given every line that the engine prints, instead
        of the terminal; `begun` the child, which may have to be told to end (SIGINT)."""
        said = ("--message", message) if message else ()
        return self._stream("up", "--yes", "--skip-preview", *said, each=each, begun=begun)

    def cancel(self) -> None:
        """Removes the locks of a run that is no more."""
        self._run("cancel", "--yes")

    def outputs(self) -> dict[str, Any]:
        """Decrypted; empty for a stack that never ran."""
        return dict(self._json("stack", "output", "--show-secrets", "--json"))

    def state(self) -> Any:
        """The checkpoint as it is now, secrets encrypted."""
        return self._json("stack", "export")

    def history(self) -> Iterator[Any]:
        """The checkpoint that each past update left, newest first."""
        return (run.checkpoint() for run in self.runs())

    def runs(self) -> Iterator[Run]:
        """Every past run, newest first, each read when it is asked for."""
        return self._cloud_runs() if self._files is None else self._files.runs()

    @property
    def keeps_files(self) -> bool:
        """Whether past runs are files on this machine, and many of them are read at once."""
        return self._local is not None

    def edge(self) -> Edge | None:
        """In a rehearsal nobody's DNS knows the final URLs. None: the internet does."""
        said = os.environ.get("HONEYDUE_EDGE", "")
        if said:
            address, _, authority = said.partition(",")
        elif self.kind == "rehearsal":
            address, authority = str(self._played["address"]), str(self._played["ca"])
        else:
            return None
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit() and authority):
            raise refused(
                f"HONEYDUE_EDGE is {said!r}", 'HONEYDUE_EDGE="127.0.0.1:<port>,<file of the CA>"'
            )
        return Edge(host, int(port), authority)

    def cloudflare(self) -> str:
        """Where Cloudflare's API is asked. Unlike `environment` it starts nothing."""
        if said := os.environ.get("CLOUDFLARE_BASE_URL", ""):
            return said
        return str(self._played["cloudflare"]) if self.kind == "rehearsal" else CLOUDFLARE

    def environment(self) -> dict[str, str]:
        """What the engine's own providers and builders see: vendors' addresses, the PATH. In a
        rehearsal it leads to the stand-ins, which are started if need be."""
        if self.kind == "pulumi":
            return dict(os.environ)
        found = self._json("environment", scoped=False)
        return {**os.environ, **{str(key): str(value) for key, value in found.items()}}

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
        return self.state() if self._local is None else next(self.history(), None)

    def holders(self) -> list[str] | None:
        """Who runs something on the stack now, and since when; nobody: empty. None: the state is in
        a bucket, whose locks no verb shows."""
        if self._local is not None:
            return self._local.holders()
        if not self._url.startswith(("http://", "https://")):
            return None
        return ["somebody (Pulumi Cloud does not say who)"] if self._in_progress() else []

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps every run of the stack out, or raises Refused while there is one.

        A folder is locked as a run would lock it. Pulumi Cloud locks for its own runs only: there
        a run is looked for, and one that begins a moment later is not seen."""
        if self._files is not None:
            with self._files.lock():
                yield
            return
        if self._in_progress():
            raise refused(
                f"a run of the stack {self.stack} is under way",
                "wait until it has ended, and run the same again",
            )
        yield

    def _in_progress(self) -> bool:
        """As Pulumi Cloud says it."""
        return any(
            summary["name"].split("/")[-1] == self.stack and summary.get("updateInProgress")
            for summary in self._json("stack", "ls", "--json", scoped=False)
        )

    @cached_property
    def _played(self) -> dict[str, Any]:
        """Where a rehearsal's stand-ins are, whether they are served or not."""
        return dict(self._json("edge", scoped=False))

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
            makes_it = "pulumi login file://…" if self.kind == "pulumi" else "make rehearse"
            return _Files(self.folder / folder, self.project, self.stack, makes_it)
        if url.startswith(("http://", "https://")):
            return None
        raise refused(
            f"the past states of {self.stack} cannot be listed: no verb of Pulumi lists them in "
            f"{url.split('?', maxsplit=1)[0]}",
            "to read, copy that bucket to a folder (rclone copy … ./state) and run this with "
            "PULUMI_BACKEND_URL=file://$PWD/state; never deploy from the copy. To deploy, roll "
            "back or change settings by ops, move the stack to a folder or to Pulumi Cloud "
            "(pulumi stack export, pulumi login, pulumi stack import); until then: pulumi up",
        )

    def _cloud_runs(self) -> Iterator[Run]:
        page = 1
        while True:
            words = ("--page-size", str(_HISTORY_PAGE), "--page", str(page))
            updates = self._json("stack", "history", "--json", *words) or []
            for update in updates:
                version = str(update["version"])
                load = partial(self._json, "stack", "export", "--version", version)
                yield _run_of(update, int(version), load)
            if len(updates) < _HISTORY_PAGE:
                return
            page += 1

    # Children

    def _json(self, *words: str, scoped: bool = True) -> Any:
        said = self._run(*words, scoped=scoped)
        try:
            return json.loads(said)
        except ValueError:
            raise self._failed(words, "it printed no JSON", scoped=scoped) from None

    def _run(self, *words: str, scoped: bool = True, stdin: str = "") -> str:
        """What the engine's CLI prints. Refused: with its own words when it fails."""
        done = self._child(*words, scoped=scoped, stdin=stdin)
        if done.returncode:
            # The engines mask secrets in what they say of a failure.
            said = done.stderr.strip().removeprefix("error: ")
            raise self._failed(words, said or f"it ended with {done.returncode}", scoped=scoped)
        return done.stdout

    def _child(
        self, *words: str, scoped: bool = True, stdin: str = "", seconds: float = _SECONDS
    ) -> subprocess.CompletedProcess[str]:
        scope = ("--stack", self.stack) if scoped else ()
        try:
            with _interrupts_wait_for_the_child():
                return subprocess.run(
                    [*self._command, *words, *scope],
                    cwd=self.folder,
                    env=self._child_environment,
                    input=stdin,
                    capture_output=True,
                    text=True,
                    timeout=seconds,
                    check=False,
                )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise self._failed(words, str(cause), scoped=scoped) from None

    def _stream(
        self,
        *words: str,
        each: Callable[[str], None] | None = None,
        begun: Callable[[subprocess.Popen[bytes]], None] | None = None,
    ) -> int:
        sys.stdout.flush()
        command = [*self._command, *words, "--stack", self.stack]
        with (
            tempfile.TemporaryFile() if each else nullcontext() as told,
            _interrupts_left_to_the_child(),
        ):
            try:
                child = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=self._child_environment,
                    stdin=subprocess.DEVNULL,
                    stdout=told,
                    stderr=subprocess.STDOUT if told else None,
                )
            except OSError as cause:
                raise self._failed(words[:1], str(cause)) from None
            if begun is not None:
                begun(child)
            if told and each:
                for line in lines(told, child):
                    # A terminal that was closed takes no more lines; the engine goes on.
                    with suppress(OSError):
                        if line is not None:
                            each(line)
            code = child.wait()
        return code if code >= 0 else 128 - code  # by a signal: the shells' code

    def _failed(self, words: Sequence[str], said: str, *, scoped: bool = True) -> Refused:
        if closed := WrongPassphrase.of(said):
            return closed
        # Nobody is told to print every secret in order to see why something fails.
        asked = " ".join(word for word in words if word != "--show-secrets")
        if "no stack named" in said:
            files = sorted(self.folder.glob("Pulumi.*.yaml"))
            own = f"Pulumi.{self.stack}.yaml"
            if self.kind == "pulumi" and own in (file.name for file in files):
                # The CLI means its backend, and asks for no file (cmd/stack/io.go: RequireStack).
                return refused(
                    f"{own} is here, and the backend has no stack {self.stack}",
                    f"pulumi login <where its state is kept>; a new one: "
                    f"pulumi stack init {self.stack}",
                )
            there = " or ".join(f"--stack {file.suffixes[0][1:]}" for file in files)
            return refused(f"there is no stack {self.stack}", there or "--stack NAME")
        by_hand = "pulumi --non-interactive" if self.kind == "pulumi" else "python -m rehearsal"
        return refused(
            f"{self.kind} {asked}: {said}",
            f"{by_hand} {asked}{f' --stack {self.stack}' * scoped} must work by itself first",
        )

    @property
    def _child_environment(self) -> dict[str, str]:
        """The CLI ends no command before it has asked pulumi.com for a newer version of itself, and
        tries again and again where it does not get there (cmd/pulumi/pulumi.go)."""
        return {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}

    @property
    def _command(self) -> list[str]:
        if self.kind == "pulumi":
            return ["pulumi", "--non-interactive"]
        return [sys.executable, "-m", "rehearsal"]


class WrongPassphrase(Refused):
    """The stack's secrets do not open, or there is nothing to open them with."""

    @classmethod
    def of(cls, said: str) -> WrongPassphrase | None:
        """By the engine's words when it cannot open them (pulumi: pkg/secrets/passphrase)."""
        if "incorrect passphrase" in said:
            what, file = "the passphrase does not open this stack's secrets", "with the right one"
        elif "PULUMI_CONFIG_PASSPHRASE" in said or "constructing secrets manager" in said:
            what, file = "there is no passphrase to open this stack's secrets with", "it stands in"
        else:
            return None
        return cls(Problem(what, f"export PULUMI_CONFIG_PASSPHRASE_FILE=<the file {file}>"))


def _run_of(record: Any, number: int, checkpoint: Callable[[], Any]) -> Run:
    """`record`: of a DIY backend's history (seconds since 1970) or of `stack history --json`."""
    return Run(
        number=number,
        kind=str(record.get("kind", "")),
        result=str(record.get("result", "")),
        started=_moment(record.get("startTime")),
        ended=_moment(record.get("endTime")),
        message=str(record.get("message") or ""),
        changes={
            str(op): int(count) for op, count in (record.get("resourceChanges") or {}).items()
        },
        environment=dict(record.get("environment") or {}),
        config=dict(record.get("config") or {}),
        checkpoint=checkpoint,
    )


def _named(record: Path) -> float:
    """Seconds since 1970 of a record's name, `<stack>-<nanoseconds>.history.json`."""
    stamp = record.name.partition(".history")[0].rpartition("-")[2]
    return int(stamp) / 1e9 if stamp.isdigit() else 0.0


def _moment(said: Any) -> datetime:
    if isinstance(said, str) and said:
        return datetime.fromisoformat(said.replace("Z", "+00:00"))
    return datetime.fromtimestamp(said if isinstance(said, int | float) else 0, UTC)


@contextmanager
def _interrupts_wait_for_the_child() -> Iterator[None]:
    """Ctrl-C counts once the child, which the terminal tells too, has ended in order. In the middle
    of its start it would leave it to itself, and while it is waited for kill it (subprocess)."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came.is_set():
            before(signal.SIGINT, None)


@contextmanager
def _interrupts_left_to_the_child() -> Iterator[None]:
    """The terminal sends Ctrl-C to both. A handler of Python's, unlike SIG_IGN, is not inherited,
    and unlike the default one it does not make us leave, or kill, a child that is ending well."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler can be set, and no Ctrl-C arrives
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    # A terminal that is closed hangs up on both: inherited, this lets the engine go on to its end.
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, hang_up)


@dataclass(frozen=True)
class _Files:
    """`.pulumi` of one stack in the folder `root`."""

    root: Path
    project: str
    stack: str
    makes_it: str  # what to type when `root` is not there

    def runs(self) -> Iterator[Run]:
        records = self._records()
        for number, record in zip(range(len(records), 0, -1), records, strict=True):
            try:
                said = self._load(record, record)
            except Refused as cause:  # one that cannot be read says nothing of the others
                told = cause.problems[0].what
                said = {"kind": "?", "result": "unreadable", "message": told}
                said |= {"startTime": _named(record), "endTime": _named(record)}
            yield _run_of(said, number, partial(self._checkpoint, record))

    def _records(self) -> list[Path]:
        """Newest first."""
        folder = self.root / ".pulumi" / "history" / self.project / self.stack
        if not self.root.is_dir():
            raise refused(f"the state's folder {self.root} is not there", self.makes_it)
        found = folder.glob(f"{self.stack}-*.history.json*")
        # The CLI's store keeps attributes of each file beside it (gocloud.dev: x.json.attrs).
        return sorted((f for f in found if f.suffix in (".json", ".gz", ".zst")), reverse=True)

    def _checkpoint(self, record: Path) -> Any:
        name = record.name.replace(".history.json", ".checkpoint.json")
        return self._load(record.with_name(name), record)

    def _load(self, path: Path, record: Path) -> Any:
        try:
            content = path.read_bytes()
            # As the CLI does: by what is in it. A checkpoint is a copy of the stack's file, under
            # the ending of the day.
            if content.startswith(_ZSTD):
                raise refused(
                    f"a past state of {self.stack} cannot be read: {path}: packed by zstd",
                    f"unset PULUMI_DIY_BACKEND_ZSTD; zstd -d --rm {path.parent}/*.zst",
                )
            return json.loads(gzip.decompress(content) if content.startswith(_GZIP) else content)
        except (OSError, EOFError, ValueError, zlib.error) as cause:
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
        found = []
        for record in self._records()[:count] if self.root.is_dir() else ():
            with suppress(Refused):
                found.append(self._load(record, record))
        return found

    def holders(self) -> list[str]:
        return [_holder(path) for path in sorted(self._locks.glob("*.json"))]

    @property
    def _locks(self) -> Path:
        return self.root / ".pulumi" / "locks" / "organization" / self.project / self.stack


def _holder(lock: Path) -> str:
    try:
        held = json.loads(lock.read_text())
        gone = held["hostname"] == socket.gethostname() and not alive(int(held["pid"]))
        since = str(held["timestamp"])
        with suppress(ValueError):  # Go's, to the nanosecond
            since = f"{datetime.fromisoformat(since).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return "{username}@{hostname} (pid {pid}) since ".format(**held) + (
            since + "; that process is gone" * gone
        )
    except (OSError, ValueError, LookupError, TypeError):
        return f"{lock} (unreadable)"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    with suppress(OSError):  # no /proc on a Mac
        # An orphan in a container may never be reaped: dead, and still in the table of processes.
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return status[:1] not in (["Z"], ["X"])
    return True
