"""Runs `buildx build`: what it is told, what it says meanwhile, and why it failed.

Credentials reach it in the environment variable DOCKER_AUTH_CONFIG alone (Docker's CLI code reads
it since 28.3, so buildx since 0.26), beside an empty DOCKER_CONFIG folder of its own: they stand on
no disk and in no list of processes. Secrets of the build travel in the environment too.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from rehearsal.engine.provider import Context, ProviderError
from rehearsal.engine.redaction import Redaction
from rehearsal.engine.values import Secret

GRACE: Final = 10.0  # seconds from SIGTERM, at which buildx cancels the build, to SIGKILL
LAST_LINES: Final = 15  # of what buildx said, in an error
OLDEST: Final = (0, 26)
PROGRESS_WIDTH: Final = 100  # characters
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")  # buildx's warnings have it, whatever it is told
_POLL: Final = 0.05  # seconds between two looks at `ctx.cancelled()`
_PLUGINS: Final = tuple(
    f"{prefix}/docker/cli-plugins"
    for prefix in ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
)
_DOCKER_HUB: Final = "https://index.docker.io/v1/"  # its name among credentials


@dataclass(frozen=True)
class Login:
    """What opens one registry. `server`: a host with its port, if it has one."""

    server: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Build:
    """One call. `flags`: the command line without `--builder`, which ends with the context."""

    flags: Sequence[str]
    builder: str = ""  # empty: buildx's own choice
    target: str = ""
    dockerfile: str = ""
    inline: str = ""  # the Dockerfile itself, for `--file -`
    host: str = ""  # a Docker daemon's address; empty: the default
    logins: Sequence[Login] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


def run(build: Build, ctx: Context) -> str:
    """Builds, and returns the digest of what was exported; empty when nothing was.

    Raises ProviderError: the cause, the line that mends it, and buildx's own last lines.
    """
    redaction = Redaction()
    for login in build.logins:
        redaction.learn(Secret([login.password, f"{login.username}:{login.password}"]))
    redaction.learn(Secret(dict(build.secrets)))
    try:
        with tempfile.TemporaryDirectory(prefix="honeydue-buildx-") as folder:
            metadata = Path(folder, "metadata.json")
            lines, code, stopped = _run(build, ctx, Path(folder), metadata, redaction)
            if stopped:
                raise ProviderError(stopped)
            if code != 0:
                raise ProviderError(explain(lines, code, build))
            return _digest(metadata)
    except OSError as error:
        raise ProviderError(
            f"cannot build: {error.filename or tempfile.gettempdir()}: {error.strerror}\n"
            "  mend: free some space there, or make it writable"
        ) from None


def program() -> str:
    """Where buildx is: on the PATH, in the rehearsal's own cache, or one of Docker's plugins."""
    from rehearsal.registry import binaries  # noqa: PLC0415 - not needed when it is on the PATH

    if found := shutil.which("buildx"):
        return found
    if tools := binaries.cached():
        return str(tools.buildx)
    for folder in (None, _docker_config() / "cli-plugins", *_PLUGINS):
        if found := shutil.which("docker-buildx", path=folder):
            return _new_enough(found)
    raise ProviderError(
        "cannot build: there is no buildx on this machine\n"
        "  mend: python -m rehearsal.registry.binaries (builds it once), or install docker-buildx"
    )


def _new_enough(found: str) -> str:
    """An older one would pass the credentials over in silence, and then be refused."""
    said = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r" v?(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        raise ProviderError(
            f"cannot build: {found} is {said.strip() or 'no buildx'}, which takes no credentials "
            f"from memory; {OLDEST[0]}.{OLDEST[1]} does\n"
            "  mend: python -m rehearsal.registry.binaries (builds one), or a newer docker-buildx"
        )
    return found


def builders() -> Path:
    """Where buildx keeps its builders, as Docker's own CLI finds them."""
    return Path(os.environ.get("BUILDX_CONFIG") or _docker_config() / "buildx")


def _docker_config() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def auth_config(logins: Sequence[Login]) -> str:
    """The value of DOCKER_AUTH_CONFIG; later logins win. It takes no other fields than these."""
    auths = {}
    for login in logins:
        hub = login.server in {"docker.io", "index.docker.io", "registry-1.docker.io"}
        pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
        auths[_DOCKER_HUB if hub else login.server] = {"auth": pair}
    return json.dumps({"auths": auths})


def _digest(metadata: Path) -> str:
    try:
        return str(json.loads(metadata.read_text()).get("containerimage.digest") or "")
    except FileNotFoundError:
        return ""  # nothing was exported
    except ValueError:
        raise ProviderError("buildx wrote no readable metadata; is it buildx 0.13 or newer?") from (
            None
        )


# --- the process ---------------------------------------------------------------------------------


def _run(
    build: Build, ctx: Context, folder: Path, metadata: Path, redaction: Redaction
) -> tuple[list[str], int, str]:
    """(what it said, exit code, why it was stopped or nothing)."""
    (folder / "docker").mkdir()
    if (contexts := _docker_config() / "contexts").is_dir():
        # Where Docker's daemons are (Docker Desktop's, a remote one): a builder may name one.
        (folder / "docker/contexts").symlink_to(contexts.resolve())
    environment = os.environ | {
        # Looked up before DOCKER_CONFIG leads elsewhere.
        "BUILDX_CONFIG": str(builders()),
        "DOCKER_CONFIG": str(folder / "docker"),
        "DOCKER_AUTH_CONFIG": auth_config(build.logins),
        "BUILDX_METADATA_PROVENANCE": "disabled",
    }
    if build.host:
        environment["DOCKER_HOST"] = build.host
    flags = ["build", "--progress=plain", "--provenance=false", f"--metadata-file={metadata}"]
    if build.builder:
        flags += ["--builder", build.builder]
    for number, (name, value) in enumerate(build.secrets.items()):
        variable = f"HONEYDUE_BUILD_SECRET_{number}"
        environment[variable] = value
        flags += ["--secret", f"id={name},env={variable}"]
    process = subprocess.Popen(
        [program(), *flags, *build.flags],
        env=environment,
        stdin=subprocess.PIPE if build.inline else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # its own process group, so that its children end with it
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(
        target=_read, args=(process.stdout, lines, ctx, redaction), daemon=True
    )
    reader.start()
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(build.inline.encode())
    stopped = _wait(process, ctx)
    reader.join(GRACE)
    return lines, process.returncode, stopped


def _read(pipe: IO[bytes], lines: list[str], ctx: Context, redaction: Redaction) -> None:
    shown: set[str] = set()
    with pipe:
        for raw in pipe:
            line = redaction.text(_COLOUR.sub("", raw.decode(errors="replace")).rstrip())
            lines.append(line)
            step = progress(line)
            if step and step not in shown:  # buildx repeats a step's name when two run at once
                shown.add(step)
                ctx.progress(step)


def _wait(process: subprocess.Popen[bytes], ctx: Context) -> str:
    deadline = None if ctx.timeout is None else time.monotonic() + ctx.timeout
    while process.poll() is None:
        if ctx.cancelled():
            _stop(process)
            return "the build was stopped because the update was cancelled"
        if deadline is not None and time.monotonic() > deadline:
            _stop(process)
            return (
                f"the build was stopped after {ctx.timeout:g} s, its timeout\n"
                "  mend: raise custom_timeouts of this resource if it needs longer"
            )
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
    return ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- what it says --------------------------------------------------------------------------------

_STEP: Final = re.compile(
    r"#\d+ (\[(?!internal\]|auth\]).+\] .+|exporting to .+|exporting cache .+)"
)
_PUSHING: Final = re.compile(r"#\d+ (pushing layers)$|#\d+ (pushing manifest) for \S+$")


def progress(line: str) -> str:
    """The line for the live tree, when one of buildx's lines begins a step: `[api 3/5] RUN …`."""
    found = _STEP.fullmatch(line) or _PUSHING.fullmatch(line)
    step = next(filter(None, found.groups()), "") if found else ""
    return step if len(step) <= PROGRESS_WIDTH else step[: PROGRESS_WIDTH - 1] + "…"


def explain(lines: Sequence[str], code: int, build: Build) -> str:
    """The cause and what mends it, then buildx's own last lines."""
    said = "\n".join(lines)
    cause = next(_causes(said, build), None)
    if cause is None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        errors = [line for line in lines if line.startswith("ERROR: ")]
        cause = (
            re.sub(r"^(ERROR|failed to build|failed to solve): ", "", errors[-1]) if errors else ""
        )
        cause = re.sub(r"^(failed to build: )?(failed to solve: )?", "", cause)
        cause = f"the build failed: {cause}" if cause else f"buildx failed ({how})"
    told = _last_lines(lines)
    return cause + ("\nbuildx's last lines:\n" + "\n".join(f"  {line}" for line in told)) * bool(
        told
    )


_NOISE: Final = re.compile(
    r"#|WARNING: No output specified| *\d+ warnings? found| - \w+: | *[\d.]+ retrying in "
)


def _last_lines(lines: Sequence[str]) -> list[str]:
    """From the failed step on: its own output, the place in the Dockerfile, the error."""
    useful = [line for line in lines if line.strip("- ") and not _NOISE.match(line)]
    return useful[-LAST_LINES:]


def _causes(said: str, build: Build) -> Iterator[str]:
    """Every cause that is known by its words, the most telling first."""
    name = build.builder or "the default one"
    if re.search(r'no builder "[^"]*" found', said):
        yield (
            f"there is no builder {name!r} in {builders()}\n"
            f"  mend: docker buildx create --name {name} --driver docker-container, or name one "
            "that is there in honeydue:image.builder (`docker buildx ls`)"
        )
    if found := re.search(r"Cannot connect to the Docker daemon at (\S+?)\.? ", said):
        yield (
            f"the builder {name!r} runs in Docker, and no Docker daemon answers at {found[1]}\n"
            "  mend: start Docker, or set honeydue:image.driver remote and make a builder for a "
            "BuildKit of your own"
        )
    if re.search(r"\[internal\] waiting for connection", said) and "context deadline" in said:
        yield (
            f"the builder {name!r} does not answer: its BuildKit is not running\n"
            f"  mend: docker buildx inspect --bootstrap {name}, or start its buildkitd, then again"
        )
    if re.search(r'target stage "[^"]*" could not be found', said):
        yield (
            f"{build.dockerfile or 'the Dockerfile'} has no stage {build.target!r}\n"
            f"  mend: name a stage of it `FROM … AS {build.target}`"
        )
    if "no space left on device" in said:
        yield (
            "the disk is full, here or at the registry\n"
            f"  mend: docker buildx prune --builder {build.builder or 'NAME'}, or free some space, "
            "then run again"
        )
    if found := re.search(r"^ > \[internal\] load metadata for (\S+):$", said, re.MULTILINE):
        yield _base_image(found[1], said.rpartition("ERROR: ")[2])
    yield from _refusals(said)


def _base_image(image: str, why: str) -> str:
    if re.search(r"not found$", why.strip()) and "no such host" not in why:
        reason = "its registry does not have it"
    elif re.search(r"\b40[13]\b|unauthorized|denied", why):
        reason = "its registry hands it to nobody, or not to this user and token"
    else:
        reason = "its registry cannot be reached from the builder"
    return (
        f"the base image {image} is not there: {reason}\n"
        "  mend: try again later, or give another one by honeydue:image.buildArgs"
    )


def _refusals(said: str) -> Iterator[str]:
    # Not a step's own `#7 ERROR:`: one of a cache that is not there yet is no reason.
    last = "\n".join(line for line in said.splitlines() if line.startswith("ERROR: "))
    server = _server(last) or _server(said) or "the registry"
    if re.search(
        r"to \S*/blobs/uploads/\S*: 40[13]|insufficient_scope|40[13] \w+: reqPackage", last
    ):
        yield (
            f"{server} lets this token read, but not push: it lacks write:package\n"
            "  mend: make a token with write:package, then: pulumi config set --secret "
            "--path honeydue:registry.token"
        )
    if re.search(
        r"failed to fetch (oauth|anonymous) token|\b40[13] (Unauthorized|Forbidden)"
        r"|push access denied|no basic auth credentials|authorization failed",
        last,
    ):
        yield (
            f"{server} refuses the registry's user or token: wrong, expired, or of another user\n"
            "  mend: pulumi config set --secret --path honeydue:registry.token, then run again"
        )
    if re.search(r": 413 ", last):
        yield (
            f"{server}, or a proxy before it, takes no layer of this size: it answers 413\n"
            "  mend: raise the proxy's limit (nginx: client_max_body_size 0;), then run again"
        )
    if re.search(r": 507 ", last):
        yield (
            f"{server} has no room left: it answers 507\n"
            "  mend: make room there (python -m ops images prune deletes old releases), then run "
            "again; the layers that it has are kept"
        )
    if found := re.search(r": (5\d\d [A-Z][a-z A-Z]*)", last):
        yield (
            f"{server} answers {found[1].strip()}: the fault is its own, a full disk perhaps\n"
            "  mend: see its log and its disk, then run again; the layers that it has are kept"
        )
    if "failed to push" in last and re.search(
        r"connection refused|no such host|i/o timeout|network is unreachable|connection reset"
        r"|EOF|context deadline exceeded",
        last,
    ):
        yield (
            f"{server} does not answer, or broke off while it was pushed to\n"
            "  mend: see that it runs, then run again; the layers that it has are not sent twice"
        )


def _server(said: str) -> str:
    found = re.search(r"failed to push ([^/\s]+)/", said) or re.search(
        r"https?://([^/\s]+)/v2", said
    )
    return f"the registry {found[1]}" if found else ""
