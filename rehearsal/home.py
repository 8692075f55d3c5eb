"""Where a rehearsal keeps its things: one folder that `reset` may delete, and one cache outside.

.rehearsal/                 $HONEYDUE_REHEARSAL_HOME, default <repository>/.rehearsal
  state/.pulumi/            the CLI's own DIY backend layout (stacks, history, backups, locks)
  clouds/                   the stand-ins' stores
  nodes/<server id>/        one folder per server: its disk
  edge/                     what the user's way shows: an authority of the home's own, and its leaf
  registry/, app/           with IMAGES=1: Gitea, BuildKit, and the application's checkout
  unpacked/                 with IMAGES=1: the images' files, one folder per digest
  behaviour.json            which pods were told to misbehave
  images.yaml               with IMAGES=1: what differs from the repository's Pulumi.rehearsal.yaml
  serve.json                the serving process: pid, addresses, environment
  logs/                     one file per process
~/.cache/honeydue-rehearsal/  $HONEYDUE_REHEARSAL_CACHE: everything that is built, kept for ever
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Home:
    """The folders of one rehearsal. Nothing is made until it is needed."""

    root: Path

    @staticmethod
    def current() -> Home:
        chosen = os.environ.get("HONEYDUE_REHEARSAL_HOME")
        return Home(Path(chosen).resolve() if chosen else REPOSITORY / ".rehearsal")

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def clouds(self) -> Path:
        return self.root / "clouds"

    @property
    def nodes(self) -> Path:
        return self.root / "nodes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def edge_ca(self) -> Path:
        """PEM: who vouches for the hosts of a rehearsal."""
        return self.root / "edge" / "ca.pem"

    @property
    def serve_file(self) -> Path:
        return self.root / "serve.json"


def cache_folder() -> Path:
    """Outside the repository: a clean clone on the same machine finds what was built before."""
    chosen = os.environ.get("HONEYDUE_REHEARSAL_CACHE")
    if chosen:
        return Path(chosen).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "honeydue-rehearsal"
