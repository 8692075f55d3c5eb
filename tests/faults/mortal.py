"""Both stand-ins in a process of their own, so that a fault may kill it (`die_after_change`).

python -m tests.faults.mortal FOLDER HETZNER_PORT CLOUDFLARE_PORT       prints `ready`
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.hetzner import Hetzner
from rehearsal.clouds.http import Listener
from rehearsal.clouds.machines import IdleDatacenter
from rehearsal.serve import REHEARSAL_ZONES

BLOCK = 33
"""127.33.0.0/16: below the blocks that rehearsals choose, so that nobody answers there."""


def stand_ins(folder: Path) -> tuple[Hetzner, Cloudflare]:
    """With what the folder holds. Nodes are idle, and actions are done at once."""
    hetzner = Hetzner(folder / "hetzner.json", None, IdleDatacenter(), BLOCK, action_seconds=0.0)
    return hetzner, Cloudflare(folder / "cloudflare.json", None, REHEARSAL_ZONES)


def main(folder: str, *ports: str) -> None:
    apps = [cloud.wsgi_app for cloud in stand_ins(Path(folder))]
    for app, port in zip(apps, ports, strict=True):
        Listener(app, port=int(port)).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
