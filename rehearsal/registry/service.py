"""The registry and the builder of one home, as the serving process runs them.

    forge = Forge(home, port)
    forge.start()             returns at once; binaries, Gitea, BuildKit and the base image follow
    forge.wait()              until all of it is there: minutes when the cache is cold
    forge.server, .tokens, .build_args, .environment()
    forge.stop()

Everything is in <home>/registry; `end_strays` ends what a killed serving process left there, and
`forget` deletes it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rehearsal.cluster import processes
from rehearsal.cluster.binaries import BinariesError, Progress
from rehearsal.home import Home
from rehearsal.registry import base, binaries, buildkit, gitea
from rehearsal.registry.buildkit import BuildKit
from rehearsal.registry.gitea import ForgeError, Gitea, Tokens

READY: Final = "ready"


@dataclass(frozen=True)
class Status:
    """`phase`: off, binaries, registry, builder, base-image, ready or failed; `line` says it in
    words, with the mend when it failed."""

    phase: str = "off"
    line: str = ""


class Forge:
    """Gitea on 127.0.0.1:<port>, buildkitd, and the base image; each kept running until `stop`."""

    def __init__(self, home: Home, port: int, cache: Path | None = None) -> None:
        self.server = f"127.0.0.1:{port}"
        self._home = home
        self._port = port
        self._cache = cache
        self._folder = folder_of(home)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._gitea: Gitea | None = None
        self._buildkit: BuildKit | None = None
        self._status = Status()
        self._tokens: Tokens | None = None
        self._go_image = ""

    def start(self) -> None:
        """Begins, unless it has begun; after a failure, tries again."""
        with self._lock:
            if self._status.phase == READY or (self._thread and self._thread.is_alive()):
                return
            self._stopping.clear()
            self._say("binaries")
            self._thread = threading.Thread(target=self._begin, name="forge", daemon=True)
            self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Until it is ready. Raises ForgeError: why it is not, or not within so many seconds."""
        with self._changed:
            over = self._changed.wait_for(
                lambda: self._status.phase in (READY, "failed", "off"), seconds
            )
        if not over or self._status.phase != READY:
            raise ForgeError(self.status().line or "the registry was not started")

    def stop(self) -> None:
        """Ends both processes; images, tokens and layers stay."""
        self._stopping.set()
        self._end()
        # A build of binaries is left behind: it dies with us, and is no harm until then.
        if self._thread and self._status.phase != "binaries":
            self._thread.join()
            self._end()  # what it had started in between
        self._say("off")

    def status(self) -> Status:
        """How far it is; what a process last said when it had to be started again."""
        with self._changed:
            status = self._status
        if status.phase == "binaries":
            # What is said of an earlier build is no news of this one.
            news = Progress.news().partition(" (once")[0]
            line = "Gitea, BuildKit and buildx are built from their sources, once"
            return Status(status.phase, f"{line}: {news}" if news else "looking for the programs")
        if status.phase == READY:
            missing = [
                name
                for name, one in (("Gitea", self._gitea), ("BuildKit", self._buildkit))
                if one is None or one.pid is None
            ]
            if missing:
                return Status("failed", f"{' and '.join(missing)} ended and is started again")
        return status

    @property
    def tokens(self) -> Tokens:
        """The user and its two tokens. ForgeError before there are any."""
        if self._tokens is None:
            raise ForgeError(self.status().line or "the registry was not started")
        return self._tokens

    @property
    def build_args(self) -> dict[str, str]:
        """What the example application's Dockerfile builds on here. ForgeError before `ready`."""
        if not self._go_image:
            raise ForgeError(self.status().line or "the registry was not started")
        return {"GO_IMAGE": self._go_image, "RUNTIME_IMAGE": "scratch", "ADMIN_IMAGE": "scratch"}

    @property
    def builder(self) -> BuildKit:
        """For whoever wants to build something else by it. ForgeError before `ready`."""
        if self._buildkit is None:
            raise ForgeError(self.status().line or "the builder was not started")
        return self._buildkit

    def environment(self) -> dict[str, str]:
        """What leads buildx, and the providers that embed it, to `honeydue-builder`."""
        return environment(self._home)

    # --- the beginning and the end ---

    def _begin(self) -> None:
        try:
            if reason := why_not():
                raise ForgeError(reason)
            tools = binaries.ensure(self._home, self._cache)
            self._go_on("registry", "Gitea starts")
            logs = self._home.logs
            logs.mkdir(parents=True, exist_ok=True)
            end_strays(self._home)
            self._gitea = Gitea(tools, self._folder / "gitea", self._port, logs / "gitea.log")
            tokens = self._gitea.start(self._stopping.is_set)
            self._go_on("builder", "BuildKit starts")
            self._buildkit = BuildKit(tools, self._folder, logs / "buildkitd.log")
            self._buildkit.start(self._stopping.is_set)
            self._go_on("base-image", "the base image is made")
            self._go_image = base.go_image(
                self._buildkit, self.server, tokens, self._folder / "scratch"
            )
            self._tokens = tokens
            self._go_on(READY, f"the registry answers at {self.server}")
        except (ForgeError, BinariesError) as error:
            self._end()
            self._say("off" if self._stopping.is_set() else "failed", str(error))
        except OSError as error:
            self._end()
            self._say(
                "failed",
                f"{self._folder}: {error.strerror or error}\n"
                "  mend: free some space or make it writable, then run again",
            )
        except BaseException as error:  # a defect of ours; whoever waits must not wait for ever
            self._end()
            self._say("failed", f"the registry did not start: {type(error).__name__}")
            raise

    def _go_on(self, phase: str, line: str) -> None:
        if self._stopping.is_set():
            raise ForgeError("the registry was stopped")
        self._say(phase, line)

    def _say(self, phase: str, line: str = "") -> None:
        with self._changed:
            self._status = Status(phase, line)
            self._changed.notify_all()

    def _end(self) -> None:
        for one in (self._buildkit, self._gitea):
            if one:
                one.stop()


def why_not() -> str:
    """Why this machine can have no registry and builder, and what mends it; empty when it can."""
    return buildkit.why_not() or gitea.why_not() or base.why_not()


def folder_of(home: Home) -> Path:
    return home.root / "registry"


def environment(home: Home) -> dict[str, str]:
    """What leads to a home's builder, also from outside the serving process."""
    return {"BUILDX_CONFIG": str(folder_of(home) / "buildx")}


def end_strays(home: Home) -> list[str]:
    """Ends what a killed serving process left, build steps and mounts too; returns the names."""
    ended = processes.end_strays(folder_of(home), "run/*.pid")
    buildkit.clear(folder_of(home))
    return ended


def forget(home: Home) -> None:
    """Deletes the registry, its images and the layers. It must not be running."""
    end_strays(home)
    shutil.rmtree(folder_of(home), ignore_errors=True)
    with contextlib.suppress(OSError):
        shutil.rmtree(buildkit.socket_of(folder_of(home)).parent)
