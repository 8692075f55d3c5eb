"""Base images where no public registry can be reached: made of what this machine has.

Only one is needed: `go`, with the machine's own Go and a static busybox, stands in for
golang:alpine when the application is built. What runs needs no base: it is `FROM scratch`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from rehearsal.cluster.binaries import BinariesError, find_go
from rehearsal.registry.buildkit import BuildKit
from rehearsal.registry.gitea import ForgeError, Tokens, digest_of

GO_NEEDED: Final = (1, 25)
_PARTS_OF_GO: Final = ("bin", "pkg", "src", "lib", "VERSION", "go.env")
_LEFT_OUT: Final = ("testdata", "*_test.go")
_SOURCES_OF_TOOLS: Final = "src/cmd"  # two thirds of the sources; the tools themselves are in pkg
_DOCKERFILE: Final = """\
FROM scratch AS files
COPY busybox /bin/busybox
# /tmp, and the shell that every RUN is given to.
RUN ["/bin/busybox", "sh", "-c", \
"/bin/busybox mkdir -p /usr/bin /root /go && /bin/busybox mkdir -m 1777 /tmp \
&& /bin/busybox --install -s /bin \
&& echo root:x:0:0:root:/root:/bin/sh > /etc/passwd && echo root:x:0: > /etc/group"]
COPY go /usr/local/go

FROM files
ENV PATH=/usr/local/go/bin:/go/bin:/usr/bin:/bin GOPATH=/go GOTOOLCHAIN=local
WORKDIR /go
"""
# Compressed lightly: it goes over loopback only, while someone waits.
_PACKED: Final = (
    "rewrite-timestamp=true,oci-mediatypes=true,"
    "compression=zstd,compression-level=1,force-compression=true"
)


def go_image(builder: BuildKit, server: str, tokens: Tokens, scratch: Path) -> str:
    """The reference, with digest, of the `go` image in the registry; pushed if it is not there.

    `scratch`: a folder for the build's context, emptied again. Raises ForgeError."""
    busybox = _busybox()
    go, version = _go()
    recipe = hashlib.sha256(
        repr((_DOCKERFILE, _PACKED, _PARTS_OF_GO, _LEFT_OUT, _SOURCES_OF_TOOLS)).encode()
        + busybox.read_bytes()
    )
    repository, tag = f"{tokens.username}/go", f"{version}-{recipe.hexdigest()[:8]}"
    digest = digest_of(server, tokens, repository, tag)
    if digest is None:
        scratch.mkdir(parents=True, exist_ok=True)
        output = f"type=image,name={server}/{repository}:{tag},push=true,{_PACKED}"
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            _fill(Path(folder), go, busybox)
            epoch = ("--build-arg", "SOURCE_DATE_EPOCH=0")
            builder.build(
                ["--provenance=false", *epoch, "--output", output, folder], server, tokens
            )
        digest = digest_of(server, tokens, repository, tag)
    if digest is None:
        raise ForgeError(f"{server} took {repository}:{tag}, and does not have it")
    return f"{server}/{repository}:{tag}@{digest}"


def _fill(folder: Path, go: Path, busybox: Path) -> None:
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    shutil.copy(busybox, folder / "busybox")
    (folder / "busybox").chmod(0o755)
    unwanted = shutil.ignore_patterns(*_LEFT_OUT)

    def left_out(inside: str, names: list[str]) -> set[str]:
        tools = {name for name in names if Path(inside, name) == go / _SOURCES_OF_TOOLS}
        return unwanted(inside, names) | tools

    for part in _PARTS_OF_GO:
        source = go / part
        if source.is_dir():
            shutil.copytree(source, folder / "go" / part, symlinks=True, ignore=left_out)
        elif source.exists():
            shutil.copy(source, folder / "go" / part)


def why_not() -> str:
    """Why there can be no base image here, and what mends it; empty when there can."""
    try:
        _busybox()
        _go()
    except ForgeError as error:
        return str(error)
    return ""


def _go() -> tuple[Path, str]:
    """GOROOT of this machine's Go, and its version without the leading `go`."""
    try:
        go = find_go(GO_NEEDED, what="the base image of the application")
    except BinariesError as error:
        raise ForgeError(str(error)) from None
    said = subprocess.run(
        [go, "env", "GOROOT", "GOVERSION"],
        env=os.environ | {"GOTOOLCHAIN": "local"},  # this one, not one that a go.mod asks for
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\n")
    return Path(said[0]), said[1].removeprefix("go").split()[0]


def _busybox() -> Path:
    """A static busybox: the base image has no C library for any other."""
    found = shutil.which("busybox")
    if found and b"/ld-" not in Path(found).read_bytes()[: 1 << 12]:  # no program interpreter
        return Path(found)
    raise ForgeError(
        "the base image needs a shell that stands alone, and there is no static busybox\n"
        "  mend: apt-get install -y busybox-static"
    )
