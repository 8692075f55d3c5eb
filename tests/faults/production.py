"""The whole production on a real cluster under an operator's worst night: helpers.

Everything that is printed on the way is kept by a `Witness`, which also watches command lines and
temporary files for secrets.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from rehearsal import serve
from rehearsal.engine.project import Configuration, Project, StackFile
from rehearsal.engine.secrets import open_crypter
from rehearsal.engine.state import Backend, deployment_from_json
from rehearsal.engine.values import plain
from rehearsal.home import Home
from rehearsal.page import operators
from tests.faults import mortal_up
from tests.faults.lab import canonical
from tests.rehearsal.operator import Answer, Operator

NODES: Final = ["honeydue-1", "honeydue-2", "honeydue-3"]
NAMESPACE: Final = "/namespaces/honeydue"


@dataclass
class Witness:
    """Reads what anybody on this machine could read while a run is at work."""

    home: Path
    temporary: Path
    texts: dict[str, str] = field(default_factory=dict, repr=False)
    """Where it stood → what stood there."""
    _end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    looked: int = 0

    def keep(self, where: str, text: str) -> None:
        with self._lock:
            self.texts[where] = self.texts.get(where, "") + text

    def look(self) -> None:
        self.looked += 1
        home = str(self.home).encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            raw = _bytes(path)
            if home in raw or home in _bytes(path.with_name("environ")):
                line = raw.replace(b"\0", b" ").decode(errors="replace")
                with self._lock:
                    self.texts.setdefault(f"command line: {line[:60]}: {hash(line)}", line)
        with contextlib.suppress(FileNotFoundError):  # a folder that went while we looked
            for path in self.temporary.rglob("*"):
                if path.is_file():
                    self.keep(f"temporary file {path.name}", _bytes(path).decode(errors="replace"))

    def look_at_files(self) -> None:
        """State, history, backups, locks and logs. The nodes' disks and the stand-in's store hold
        user_data by design, as Hetzner does: they are not looked at."""
        for folder in ("state", "logs"):
            for path in (self.home / folder).rglob("*"):
                if path.is_file():
                    self.keep(str(path), _bytes(path).decode(errors="replace"))

    @contextmanager
    def watching(self) -> Iterator[None]:
        def watch() -> None:
            while not self._end.wait(0.5):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def leaks(self, canaries: Sequence[str]) -> list[str]:
        return [
            f"{where} holds the canary {canary[:4]}…"
            for where, text in self.seen().items()
            for canary in canaries
            if canary in text
        ]

    def seen(self) -> dict[str, str]:
        """All of it so far: `watching` may be adding to it."""
        with self._lock:
            return dict(self.texts)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@dataclass
class Production:
    operator: Operator
    witness: Witness
    locked: str = ""
    """What `up` said when the first run had just been killed."""

    @property
    def environment(self) -> dict[str, str]:
        return {**self.operator.environment, "TMPDIR": str(self.witness.temporary)}

    def run(self, *words: str, **environment: str) -> Answer:
        answer = self.operator.run(*words, **{"TMPDIR": str(self.witness.temporary), **environment})
        self.witness.keep("printed: " + " ".join(words), answer.text)
        return answer

    def must(self, *words: str, **environment: str) -> str:
        answer = self.run(*words, **environment)
        assert answer.code == 0, f"{' '.join(words)} ended with {answer.code}:\n{answer.text}"
        return answer.text

    def up(self, **environment: str) -> Answer:
        return self.run("up", "--yes", "--skip-preview", **environment)

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A verb that runs beside the test. Its lines are read by `until`."""
        with subprocess.Popen(
            [sys.executable, "-m", "rehearsal", *words],
            cwd=self.operator.checkout, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def until(self, process: subprocess.Popen[str], pattern: str) -> str:
        """Its lines up to the first that fits; fails when none does."""
        assert process.stdout is not None
        read = ""
        for line in process.stdout:
            read += line
            if re.search(pattern, line):
                self.witness.keep("printed: a run beside", read)
                return read
        raise AssertionError(f"no line fits {pattern!r}:\n{read}")

    def rest(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        read = process.stdout.read()
        process.wait()
        self.witness.keep("printed: a run beside", read)
        return read

    # --- killed runs ---

    def killed(self, moment: str, step: int) -> Answer:
        done = subprocess.run(
            [sys.executable, mortal_up.__file__, moment, str(step)],
            cwd=self.operator.checkout, capture_output=True, text=True, timeout=1800, check=False,
            env={**self.environment, "PYTHONPATH": str(self.operator.checkout)},
        )  # fmt: skip
        answer = Answer(done.returncode, done.stdout, done.stderr)
        self.witness.keep("printed: killed runs", answer.text)
        return answer

    def deployed_by_killed_runs(self, steps_at_a_time: int) -> int:
        """Goes on where the last one was killed, until one reaches the end. How many were killed.

        The moments take turns, so two of four runs leave one step more behind them, even where
        each is killed at its first step.
        """
        kills = 0
        while True:
            moment = mortal_up.MOMENTS[kills % len(mortal_up.MOMENTS)]
            answer = self.killed(moment, steps_at_a_time)
            if answer.code != -signal.SIGKILL:
                assert answer.code == 0, answer.text
                return kills
            self.locked = self.locked or self.up().text
            kills += 1
            assert kills < 1000, "the runs make no progress"

    # --- the world ---

    def endpoint(self, variable: str) -> str:
        return serve.environment(Home(self.operator.home))[variable]

    def hetzner(self, method: str, path: str, body: Any = None) -> Any:
        """The vendor's API; behind the program's back."""
        return _http(method, self.endpoint("HCLOUD_ENDPOINT") + path, body)

    def cloudflare(self, method: str, path: str, body: Any = None) -> Any:
        return _http(method, self.endpoint("CLOUDFLARE_BASE_URL") + path, body)

    def standing(self, vendor: str, method: str, path: str, body: Any = None) -> Any:
        """The operator's side of a stand-in."""
        variable = "HCLOUD_ENDPOINT" if vendor == "hetzner" else "CLOUDFLARE_BASE_URL"
        return _http(method, operators(self.endpoint(variable)) + path, body)

    def world(self) -> dict[str, Any]:
        return canonical(
            self.standing("hetzner", "GET", "/state"), self.standing("cloudflare", "GET", "/state")
        )

    def server_id(self, name: str) -> int:
        (server,) = self.hetzner("GET", f"/servers?name={name}")["servers"]
        return int(server["id"])

    def kubernetes(
        self, method: str, path: str, body: Any = None, node: str = "honeydue-2",
        kind: str = "application/json",
    ) -> Any:  # fmt: skip
        """Asks that node's API server as the administrator."""
        config = yaml.safe_load(self.kubeconfig())
        server = next(c["cluster"] for c in config["clusters"] if c["name"] == node)
        user = config["users"][0]["user"]
        tls = ssl.create_default_context(
            cadata=base64.b64decode(server["certificate-authority-data"]).decode()
        )
        memory = os.memfd_create("client")
        for part in ("client-certificate-data", "client-key-data"):
            os.write(memory, base64.b64decode(user[part]) + b"\n")
        tls.load_cert_chain(f"/proc/self/fd/{memory}")
        os.close(memory)
        return _http(method, server["server"] + path, body, kind, tls)

    def kubeconfig(self) -> str:
        answer = self.operator.run("stack", "output", "kubeconfig", "--show-secrets")
        assert answer.code == 0, answer.text
        return answer.out

    def workload(self, name: str, kind: str = "deployments") -> str:
        return f"/apis/apps/v1{NAMESPACE}/{kind}/{name}"

    def names(self, group: str, plural: str) -> list[str]:
        found = self.kubernetes("GET", f"{group}{NAMESPACE}/{plural}")["items"]
        return sorted(one["metadata"]["name"] for one in found)

    def ready_nodes(self, asked: str = "honeydue-2") -> list[str]:
        """As the API server of `asked` knows it: not before that one answers."""
        return sorted(
            node["metadata"]["name"]
            for node in self.kubernetes("GET", "/api/v1/nodes", node=asked)["items"]
            if any(
                c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"]
            )
        )

    def wait_for(self, done: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
        limit = time.monotonic() + seconds
        while not _quietly(done):
            assert time.monotonic() < limit, f"{what}: not within {seconds:g} s"
            time.sleep(0.5)

    # --- what must be nowhere ---

    def canaries(self) -> list[str]:
        """Every secret setting, and every key and password that the program made: as a line of text
        that a search would find, and as Kubernetes and kubeconfigs write it."""
        os.environ["PULUMI_CONFIG_PASSPHRASE"] = serve.PASSPHRASE
        project = Project.load(self.operator.checkout)
        file = StackFile.load(project, "rehearsal")
        crypter = open_crypter(file.salt)
        raw = Backend(self.operator.home / "state").load(project.name, "rehearsal")
        assert raw is not None
        secrets, public = [*Configuration.of(project, file, crypter).secrets], b""
        for resource in deployment_from_json(raw, crypter).resources:
            outputs = plain(resource.outputs)
            if resource.type == "random:index/randomPassword:RandomPassword":
                secrets.append(outputs["result"])
            if resource.type == "tls:index/privateKey:PrivateKey":
                secrets += [outputs["privateKeyPem"], outputs.get("privateKeyPemPkcs8") or ""]
                public += _bytes_of(outputs["publicKeyPem"])
        lines = [
            line
            for secret in secrets
            for line in secret.replace("\\n", "\n").splitlines()
            # A private key repeats its public one, which is on every certificate.
            if len(line) >= 12 and "-----" not in line and _bytes_of(line) not in public
        ]
        return sorted({*lines, *(base64.b64encode(line.encode()).decode() for line in lines)})


def _bytes_of(text: str) -> bytes:
    """What lines of base64 stand for; of any other text, something that no key holds."""
    lines = [line for line in text.splitlines() if "-----" not in line]
    try:
        return base64.b64decode("".join(lines), validate=True)
    except ValueError:
        return text.encode()


def _quietly(done: Callable[[], bool]) -> bool:
    try:
        return done()
    except (OSError, urllib.error.URLError):
        return False


def _http(
    method: str, url: str, body: Any = None, kind: str = "application/json",
    tls: ssl.SSLContext | None = None,
) -> Any:  # fmt: skip
    headers = {"Authorization": f"Bearer {'t' * 64}", "Content-Type": kind}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60, context=tls) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@contextmanager
def production(folder: Path) -> Iterator[Production]:
    """Nothing is deployed yet. Afterwards no process is left."""
    operator = Operator.in_folder(folder)
    temporary = folder / "tmp"
    temporary.mkdir()
    witness = Witness(operator.home, temporary)
    try:
        with witness.watching():
            yield Production(operator, witness)
    finally:
        operator.run("down")
