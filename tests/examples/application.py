"""The example application, copied out of the repository, and its processes as a test sees them."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from honeydue.kubernetes.catalogue import WORKLOADS, Workload
from rehearsal.cluster.binaries import find_go

SOURCE: Final = Path(__file__).parents[2] / "examples" / "app"
SERVICES: Final[Mapping[str, Workload]] = {workload.name: workload for workload in WORKLOADS}
CANARY: Final = "canary-7Qm2"
SECONDS: Final = 120.0


def copy(to: Path, *, umask: int = 0o022) -> Path:
    """The folder as a checkout of its own would have it: other times, and modes after `umask`."""
    shutil.copytree(SOURCE, to, copy_function=shutil.copyfile)
    for path in to.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    return to


def instructions() -> list[str]:
    """The Dockerfile's, one a line, without comments."""
    lines = (SOURCE / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def compiler_settings() -> dict[str, str]:
    """What the Dockerfile sets for the compiler, for this machine and with its own cache."""
    said: dict[str, str] = {}
    for line in instructions():
        if line.startswith("ENV "):
            said |= dict(word.split("=", 1) for word in shlex.split(line)[1:])
    del said["GOCACHE"], said["GOPATH"], said["GOOS"], said["GOARCH"]
    return said


def go(folder: Path, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
    """Runs Go without a network; returns what it printed, or fails with it."""
    environment = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    done = subprocess.run(
        [find_go((1, 25), what="the example application"), *arguments],
        cwd=folder,
        env={**os.environ, **environment, **(extra or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with only this environment, its output in `log`; killed if it is still there."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def lines(log: Path) -> list[dict[str, Any]]:
    """The log, each line of which must be JSON."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def logged(process: subprocess.Popen[bytes], log: Path, message: str) -> dict[str, Any]:
    """The first line with this message; waits for it as long as the process lives."""
    limit = time.monotonic() + SECONDS
    while time.monotonic() < limit:
        whole = log.read_text().rpartition("\n")[0]  # the last line may be half written
        for line in whole.splitlines():
            if f'"msg":"{message}"' in line:
                found: dict[str, Any] = json.loads(line)
                return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    raise AssertionError(f"no line {message!r} in {SECONDS} s: {log.read_text()}")


def terminated(process: subprocess.Popen[bytes]) -> int:
    """The exit code after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    return process.wait(SECONDS)


def answer(port: int, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path)
        said = connection.getresponse()
        return said.status, dict(said.getheaders()), said.read()
    finally:
        connection.close()
