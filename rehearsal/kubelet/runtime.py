"""What a container is here: a process of this machine, or the pretence of one.

An image of the home's own registry is pulled and run as a process of its own session. It has no
namespace, no mount, no limit and no user of its own, so that neither root nor a container runtime
is needed: static programs that are told their port by PORT are what it can run. Every other image
(Redis, and all of them in a home without `--images`) is pretended: it does nothing, at once.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from rehearsal.cluster.processes import Identity, dying_with_parent, signal_group
from rehearsal.kubelet.addresses import Address, Kubelets
from rehearsal.kubelet.behaviour import Behaviour
from rehearsal.kubelet.container import PullFailed, Running, StartFailed
from rehearsal.kubelet.environment import Lookup, environment
from rehearsal.kubelet.images import Images
from rehearsal.kubelet.probes import ask, probed_port, refused

Json = dict[str, Any]

LOOPBACK: Final = "127.0.0.1"
CRASH_SECONDS: Final = 0.5  # how long one lives that was told to crash
_PROBE_503: Final = "HTTP probe failed with statuscode: 503"


@dataclass(frozen=True)
class PodRuntime:
    """The `Runtime` of one pod's containers.

    `real`: whether an image is of the home's registry; `secrets`: the pod's docker configuration,
    merged; `log`: container and attempt → file; `wake` is called when a process has ended."""

    pod: Json
    ip: str
    behaviour: Behaviour
    kubelets: Kubelets
    images: Images
    real: Callable[[str], bool]
    secrets: Callable[[], Json]
    lookup: Lookup
    log: Callable[[str, int], Path]
    pid_file: Callable[[str], Path]
    wake: Callable[[], None]

    def present(self, image: str) -> bool:
        if self.behaviour.kind == "pull-fails":
            return False
        return not self.real(image) or self.images.present(image)

    def pull(self, image: str) -> str:
        if self.behaviour.kind == "pull-fails":
            raise PullFailed(
                "rpc error: code = NotFound desc = failed to pull and unpack image "
                f'"{image}": failed to resolve reference "{image}": {image}: not found'
            )
        if not self.real(image):
            return f'Container image "{image}" already present on machine'
        return self.images.pull(image, self.secrets())

    def environment(self, spec: Json) -> dict[str, str]:
        return environment(spec, self.pod, self.ip, self.lookup)

    def start(
        self, spec: Json, environment: Mapping[str, str], attempt: int, now: float
    ) -> Running:
        image, name = spec["image"], spec["name"]
        log = self.log(name, attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log(name, attempt - 2).unlink(missing_ok=True)  # as a kubelet: one of before is kept
        if not self.real(image) or self.behaviour.kind == "crashes":
            return Pretended(self.pod, image, self.behaviour, log, now)
        config, root = self.images.configuration(image), self.images.root(image)
        command = [*(spec.get("command") or config.get("Entrypoint") or ())]
        # As in Kubernetes: a command of the pod's own takes the image's arguments away.
        command += spec.get("args") or ([] if spec.get("command") else config.get("Cmd") or [])
        env = dict(pair.split("=", 1) for pair in config.get("Env") or ())
        env |= {"HOSTNAME": self.pod["metadata"]["name"], **environment}
        program = _program(command[0] if command else "", env.get("PATH", "/usr/bin:/bin"), root)
        declared, port = _port(spec), 0
        if declared:
            # All pods of all nodes share one network here, so each process gets a port of its own
            # in place of the one that its image and its pod agree on. HOST is the example
            # application's word; a program that does not know it listens on every address.
            port = _free_port()
            env |= {"PORT": str(port), "HOST": LOOPBACK}
        cwd = root / (config.get("WorkingDir") or "/").lstrip("/")
        process = Process([str(program), *command[1:]], env, cwd, log, self.pid_file(name))
        return _Real(self, spec, process, declared, (LOOPBACK, port), now)


# --- a process ----------------------------------------------------------------------------------


class Process:
    """One program, started in a thread that lives as long as it: the kernel ends it with us.

    What it writes goes to `log` as containerd's CRI plugin writes it: time, stream, F, the line.
    Raises StartFailed."""

    def __init__(
        self, command: list[str], env: dict[str, str], cwd: Path, log: Path, pid_file: Path
    ) -> None:
        self.code: int | None = None
        self.on_end: Callable[[], None] = lambda: None
        self._identity: Identity | None = None
        self._began = threading.Event()
        self._failure = ""
        arguments = (command, env, cwd, log, pid_file)
        name = f"container {Path(command[0]).name}"
        threading.Thread(target=self._run, args=arguments, name=name, daemon=True).start()
        self._began.wait()
        if self._failure:
            raise StartFailed(_runc(command[0], self._failure))

    def send(self, number: signal.Signals) -> None:
        if self._identity:
            signal_group(self._identity, number)

    def _run(
        self, command: list[str], env: dict[str, str], cwd: Path, log: Path, pid_file: Path
    ) -> None:
        try:
            log.touch()
            child = subprocess.Popen(
                dying_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            self._failure = (error.strerror or str(error)).lower()
            self._began.set()
            return
        self._identity = Identity.of(child.pid, f"container {pid_file.stem}")
        if self._identity:
            self._identity.write(pid_file)
        self._began.set()
        assert child.stdout is not None  # a pipe was asked for
        with child.stdout, log.open("ab", buffering=0) as out:
            for line in child.stdout:
                write_line(out, line)
        code = child.wait()
        self.code = code if code >= 0 else 128 - code
        pid_file.unlink(missing_ok=True)
        self.on_end()


def write_line(out: IO[bytes], line: bytes) -> None:
    at = time.time_ns()
    day = datetime.fromtimestamp(at // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    out.write(f"{day}.{at % 10**9:09d}Z stdout F ".encode() + line.rstrip(b"\n") + b"\n")


class _Real:
    real = True
    probes: Collection[str] = ("startup", "readiness", "liveness")
    ends_at = math.inf

    def __init__(  # noqa: PLR0917 - called in one place
        self,
        runtime: PodRuntime,
        spec: Json,
        process: Process,
        port: int,
        at: Address,
        now: float,
    ) -> None:
        self._runtime = runtime
        self._spec = spec
        self._process = process
        self._port = port
        self._at = at
        self._began = now
        if port:
            runtime.kubelets.listen(runtime.ip, port, at)
        process.on_end = self._ended
        if process.code is not None:  # it ended before it could tell
            self._ended()

    def _ended(self) -> None:
        if self._port:
            self._runtime.kubelets.listen(self._runtime.ip, self._port, None)
        self._runtime.wake()

    def exit_code(self, now: float) -> int | None:  # noqa: ARG002 - the pretended one's question
        return self._process.code

    def probe(self, kind: str, probe: Json, now: float) -> str:
        told = self._runtime.behaviour
        if kind == "readiness" and told.kind == "never-ready":
            return _PROBE_503
        said = f"{self._runtime.ip}:{probed_port(probe, self._spec)}"
        if kind == "startup" and told.kind == "slow" and now < self._began + told.seconds:
            return refused(probe, said)
        mine = probed_port(probe, self._spec) == self._port
        return ask(probe, self._at if mine else None, said)

    def terminate(self) -> None:
        self._process.send(signal.SIGTERM)

    def kill(self) -> None:
        self._process.send(signal.SIGKILL)


def _program(command: str, path: str, root: Path) -> Path:
    """The command in the image's own files; links are followed within them. Raises StartFailed."""
    places = [command] if "/" in command else [f"{folder}/{command}" for folder in path.split(":")]
    for place in places if command else ():
        found = (root / place.lstrip("/")).resolve()
        if found.is_relative_to(root.resolve()) and found.is_file() and os.access(found, os.X_OK):
            return found
    why = "no such file or directory" if "/" in command else "executable file not found in $PATH"
    raise StartFailed(_runc(command, why))


def _runc(command: str, why: str) -> str:
    stat = f"stat {command}: " if command.startswith("/") else ""
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
        "runc create failed: unable to start container process: error during container init: "
        f'exec: "{command}": {stat}{why}'
    )


def _free_port() -> int:
    with socket.socket() as held:  # on all addresses: the images' programs bind so
        held.bind(("", 0))
        return int(held.getsockname()[1])


def _port(spec: Json) -> int:
    """What the image is told to listen on: PORT, else the first port that it declares; 0: none."""
    for variable in spec.get("env") or ():
        if variable["name"] == "PORT" and str(variable.get("value", "")).isdigit():
            return int(variable["value"])
    return next((int(port["containerPort"]) for port in spec.get("ports") or ()), 0)


# --- the pretence of one ------------------------------------------------------------------------


class Pretended:
    """Nothing runs. It is Ready at once, unless its pod was told something else."""

    real = False

    def __init__(self, pod: Json, image: str, behaviour: Behaviour, log: Path, now: float) -> None:
        self._behaviour = behaviour
        self._pod = pod
        self._began = now
        self._told_to_end = False
        asked: dict[str, Collection[str]] = {
            "slow": ("startup",),
            "never-ready": ("readiness",),
            "crashes": ("startup", "readiness"),
        }
        self.probes = asked.get(behaviour.kind, ())
        works_once = any(
            owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences") or ()
        )
        self._code = 1 if behaviour.kind == "crashes" else 0
        self.ends_at = now + CRASH_SECONDS if self._code else now if works_once else math.inf
        with log.open("ab", buffering=0) as out:
            write_line(out, f"rehearsal: nothing runs here, {image} is pretended".encode())
            if self._code:
                word = "rehearsal: told to crash (python -m rehearsal behave … crashes)"
                write_line(out, word.encode())

    def exit_code(self, now: float) -> int | None:
        if self._told_to_end:
            return 0
        return self._code if now >= self.ends_at else None

    def probe(self, kind: str, probe: Json, now: float) -> str:  # noqa: ARG002 - as above
        slow = self._behaviour.kind == "slow"
        if slow and kind == "startup" and now >= self._began + self._behaviour.seconds:
            return ""
        return _PROBE_503

    def terminate(self) -> None:
        self._told_to_end = True

    kill = terminate
