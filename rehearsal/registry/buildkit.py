"""The builder: a real buildkitd (root, runc), and buildx's remote driver to it.

    buildkit/              its root: layers, cache; and buildkitd.toml, which says all it is to do
    buildx/                BUILDX_CONFIG: the one builder `honeydue-builder`
    <temp>/honeydue-<hash of the home>/buildkitd.sock
                           outside the home: a unix socket's path is limited to 107 bytes

A registry on loopback is spoken to by plain http without being told (containerd's MatchLocalhost).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rehearsal.cluster.processes import Supervised, dying_with_parent
from rehearsal.registry.binaries import Tools
from rehearsal.registry.gitea import ForgeError, Tokens

BUILDER: Final = "honeydue-builder"
START_SECONDS: Final = 180.0
KEPT: Final = "4GB"
"""How much layer cache outlives a collection; the base image and the application need about 1."""
_SYSTEM_PATHS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_CAP_SYS_ADMIN: Final = 21
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def why_not() -> str:
    """Why BuildKit cannot run on this machine, and what mends it; empty when it can."""
    if sys.platform != "linux":
        return (
            "images are built here by BuildKit, which runs on Linux only\n"
            "  mend: rehearse without images, or in a Linux virtual machine"
        )
    if os.geteuid() != 0:
        return (
            "images are built here by BuildKit, which needs root on this machine\n"
            "  mend: sudo make rehearse IMAGES=1, or rehearse without images"
        )
    if not _capabilities() >> _CAP_SYS_ADMIN & 1:
        return (
            "images are built here by BuildKit, and this root may not mount (no CAP_SYS_ADMIN)\n"
            "  mend: run on the machine itself, or in a container started with --privileged"
        )
    if not _runc():
        return (
            "images are built here by BuildKit, which runs its steps by runc, and there is none\n"
            "  mend: apt-get install -y --no-install-recommends runc"
        )
    if not re.search(r"^\S+ \S+ cgroup2? ", Path("/proc/self/mounts").read_text(), re.M):
        return (
            "images are built here by runc, which needs cgroups, and none are mounted\n"
            "  mend: mount -t cgroup2 none /sys/fs/cgroup"
        )
    return ""


class BuildKit:
    """One buildkitd of one home, and the buildx builder that leads to it."""

    def __init__(self, tools: Tools, folder: Path, log: Path) -> None:
        self._tools = tools
        self._folder = folder
        self._log = log
        self._root = folder / "buildkit"
        self._process: Supervised | None = None
        self._clients: set[subprocess.Popen[str]] = set()
        self._open = False
        self._lock = threading.Lock()

    def start(self, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        """Returns when it answers. Raises ForgeError, also when it is asked to stop before."""
        if reason := why_not():
            raise ForgeError(reason)
        socket_file = socket_of(self._folder)
        _make_ours(socket_file.parent)
        self._root.mkdir(parents=True, exist_ok=True)
        clear(self._folder)
        configuration = self._root / "buildkitd.toml"
        configuration.write_text(self._toml(socket_file))
        process = Supervised(
            "buildkitd",
            [str(self._tools.buildkitd), "--config", str(configuration)],
            log=self._log,
            pid_file=self._folder / "run" / "buildkitd.pid",
            environment={"HOME": str(self._root), "PATH": _path()},
        )
        self._process = process.start()
        limit = time.monotonic() + START_SECONDS
        while not _listens(socket_file):
            if asked_to_stop() or process.reason() or time.monotonic() > limit:
                self.stop()
                raise ForgeError(
                    f"BuildKit does not answer: {process.reason() or 'it was not ready in time'}\n"
                    f"  mend: see {self._log}, then run again"
                )
            time.sleep(0.05)
        self._open = True
        self._name_builder(socket_file)

    def stop(self) -> None:
        with self._lock:  # a buildx would wait half a minute for a builder that is gone
            self._open = False
            for client in self._clients:
                client.kill()
        if self._process:
            self._process.stop()
            self._process = None
            clear(self._folder)
            shutil.rmtree(socket_of(self._folder).parent, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def build(self, arguments: Sequence[str], server: str, tokens: Tokens) -> str:
        """`buildx build` by our builder, allowed to push; returns what it said.

        The credentials are in its environment alone. Raises ForgeError with the last lines."""
        login = base64.b64encode(f"{tokens.username}:{tokens.write}".encode()).decode()
        answer = self._buildx(
            ["build", "--builder", BUILDER, "--progress", "plain", *arguments],
            {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {server: {"auth": login}}})},
        )
        if answer.returncode:
            raise ForgeError("buildx failed:\n    " + "\n    ".join(_tail(answer.stderr)))
        return answer.stderr

    # --- its surroundings ---

    def _name_builder(self, socket_file: Path) -> None:
        said = self._folder / "buildx" / "instances" / BUILDER
        endpoint = f"unix://{socket_file}"
        with contextlib.suppress(OSError, ValueError, LookupError):
            if json.loads(said.read_text())["Nodes"][0]["Endpoint"] == endpoint:
                return
        said.unlink(missing_ok=True)
        answer = self._buildx(["create", "--name", BUILDER, "--driver", "remote", endpoint], {})
        if answer.returncode:
            raise ForgeError(f"buildx did not take the builder: {' '.join(_tail(answer.stderr))}")

    def _buildx(
        self, arguments: Sequence[str], more: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": _path(),
            "HOME": str(self._folder),
            # Empty: neither the operator's logins nor their builders are any of our business.
            "DOCKER_CONFIG": str(self._folder / "docker"),
            "BUILDX_CONFIG": str(self._folder / "buildx"),
        }
        with self._lock:
            if not self._open:
                raise ForgeError("the builder was stopped")
            client = subprocess.Popen(
                dying_with_parent([str(self._tools.buildx), *arguments]),
                env=environment | more,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._clients.add(client)
        with client:
            out, error = client.communicate()
        with self._lock:
            self._clients.discard(client)
        return subprocess.CompletedProcess(arguments, client.returncode, out, error)

    def _toml(self, socket_file: Path) -> str:
        return f"""\
root = {json.dumps(str(self._root))}
[grpc]
  address = [{json.dumps(f"unix://{socket_file}")}]
[otel]
  socketPath = {json.dumps(str(socket_file.with_name("otel.sock")))}
[cdi]
  disabled = true
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  binary = {json.dumps(_runc())}
  # No bridge, no iptables: a step reaches what this machine reaches.
  networkMode = "host"
  gc = true
  reservedSpace = "1GB"
  maxUsedSpace = "{KEPT}"
  minFreeSpace = "1GB"
"""


def socket_of(folder: Path) -> Path:
    """The home's socket: the same one at each start, since the builder's name leads to it."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"honeydue-{name}" / "buildkitd.sock"


def clear(folder: Path) -> None:
    """Ends the build steps of a buildkitd that is gone, and takes away what it left mounted.

    A step is the first process of its own pid namespace, so nothing ends it when its runc dies;
    and a folder with something mounted in it cannot be deleted."""
    root = folder / "buildkit"
    for step in root.glob("runc-*/executor/*/config.json"):
        subprocess.run(
            [_runc() or "runc", "delete", "--force", step.parent.name],
            capture_output=True,
            check=False,
        )
    for mounted in reversed(_mounts_below(root)):  # the last mounted first
        subprocess.run(["umount", "--lazy", str(mounted)], capture_output=True, check=False)
    for step in root.glob("runc-*/executor/*/config.json"):
        shutil.rmtree(step.parent, ignore_errors=True)


def _mounts_below(folder: Path) -> list[Path]:
    if sys.platform != "linux":
        return []
    table = Path("/proc/self/mounts").read_text()
    # Blanks and the like stand there as octal escapes.
    points = (line.split()[1] for line in table.splitlines())
    paths = (Path(_OCTAL.sub(lambda escape: chr(int(escape[1], 8)), point)) for point in points)
    return [path for path in paths if path.is_relative_to(folder.resolve())]


def _make_ours(folder: Path) -> None:
    """A folder of ours alone in a place where anyone can make one."""
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if folder.is_symlink() or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise ForgeError(
            f"{folder} is somebody else's, and BuildKit's socket would be in it\n"
            f"  mend: rm -r {folder}"
        )


def _capabilities() -> int:
    """The effective ones of this process, a bit each."""
    found = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)
    return int(found[1], 16) if found else 0


def _runc() -> str:
    """runc's path, or nothing; Debian puts it where not every root looks."""
    return shutil.which("runc", path=_path()) or ""


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_PATHS])


def _listens(file: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(file))
            return True
        except OSError:
            return False


def _tail(text: str) -> list[str]:
    return [line[:300] for line in text.splitlines() if line.strip()][-6:]
