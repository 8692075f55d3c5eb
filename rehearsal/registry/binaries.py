"""What the registry and its builder run: Gitea, BuildKit and buildx, and cosign for the tests.

None of them is downloaded: each is built from its Go module by upstream's own main package, which
the wrapper's go.mod names in a `tool` line and pins, with its go.sum. The folders are in the same
cache as the cluster's (`rehearsal.cluster.binaries`). Cold, on two cores: Gitea takes 5.5
CPU-minutes (3.5 by the clock), the other three together 7.5 (4).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rehearsal.cluster.binaries import (
    Data,
    Module,
    Part,
    Program,
    find,
    make,
    told,
)
from rehearsal.home import Home

WRAPPERS: Final = Path(__file__).with_name("wrappers")
GITEA_VERSION: Final = "1.26.0"
BUILDKIT_VERSION: Final = "v0.25.2"
"""Newer ones, and newer buildx, need a module that the public proxy does not have."""
BUILDX_VERSION: Final = "v0.29.1"
COSIGN_VERSION: Final = "v2.6.5"

_GITEA: Final = Program(
    "gitea",
    ldflags=f"-s -w -X main.Version={GITEA_VERSION}",
    wrappers=WRAPPERS,
    package="code.gitea.io/gitea",
    tags=("sqlite", "sqlite_unlock_notify"),
    cgo=True,  # SQLite
)
_GITEA_STATIC: Final = Data(
    # Gitea does not start without its templates and translations; no web page is served to anyone.
    "gitea-static",
    (
        Module(
            "code.gitea.io/gitea",
            f"v{GITEA_VERSION}",
            "h1:fJP9dqLbzKrKWUVnCVTfVersZdVDuyJQLEDzCAOmKKA=",
            (("templates", "templates"), ("options", "options"), ("public", "public")),
        ),
    ),
)
_BUILDKITD: Final = Program(
    "buildkitd",
    ldflags=f"-s -w -X github.com/moby/buildkit/version.Version={BUILDKIT_VERSION}",
    wrappers=WRAPPERS,
    package="github.com/moby/buildkit/cmd/buildkitd",
    tags=("osusergo", "netgo"),
)
_BUILDX: Final = Program(
    "buildx",
    ldflags=f"-s -w -X github.com/docker/buildx/version.Version={BUILDX_VERSION}",
    wrappers=WRAPPERS,
    package="github.com/docker/buildx/cmd/buildx",
)
_COSIGN: Final = Program(
    "cosign",
    ldflags=f"-s -w -X sigs.k8s.io/release-utils/version.gitVersion={COSIGN_VERSION}",
    wrappers=WRAPPERS,
    package="github.com/sigstore/cosign/v2/cmd/cosign",
)

_PARTS: Final[tuple[Part, ...]] = (_BUILDX, _BUILDKITD, _GITEA_STATIC, _GITEA)


@dataclass(frozen=True)
class Tools:
    """Where the registry's programs are once they are there."""

    gitea: Path
    gitea_static: Path  # the folder for STATIC_ROOT_PATH
    buildkitd: Path
    buildx: Path


def cached(cache: Path | None = None) -> Tools | None:
    """The tools if all of them are there already; looks, makes nothing."""
    folders = find(_PARTS, cache)
    return _tools(folders) if folders else None


def ensure(home: Home | None = None, cache: Path | None = None) -> Tools:
    """Returns the tools, building what is missing: minutes on a cold cache. BinariesError."""
    return _tools(make(_PARTS, "Gitea, BuildKit and buildx are there", home, cache))


def ensure_cosign(home: Home | None = None, cache: Path | None = None) -> Path:
    """The real cosign, by which tests judge what we sign; nothing else needs it. BinariesError."""
    return make((_COSIGN,), "cosign is there", home, cache)["cosign"] / "cosign"


def _tools(folders: dict[str, Path]) -> Tools:
    return Tools(
        gitea=folders["gitea"] / "gitea",
        gitea_static=folders["gitea-static"],
        buildkitd=folders["buildkitd"] / "buildkitd",
        buildx=folders["buildx"] / "buildx",
    )


def main() -> int:
    """`python -m rehearsal.registry.binaries`: makes what is missing, and says how far it is."""
    if cached() and find((_COSIGN,)):
        return 0
    what = "Gitea, BuildKit, buildx and cosign are built once, from their sources"
    return told(what, lambda: (ensure(), ensure_cosign()))


if __name__ == "__main__":
    sys.exit(main())
