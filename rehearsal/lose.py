"""Losing things behind the program's back, so that the rebuild is something one has done before.

What comes after each is in docs/rebuild.md.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from rehearsal import serve
from rehearsal.engine.deployment import EngineError
from rehearsal.home import Home


def lose(home: Home, what: str, name: str | None, stack: str) -> str:
    """Does it and says in one line what is gone and what is next."""
    if what == "state":
        return lose_state(home, stack)
    endpoint = operators_endpoint(home)
    there = {server["name"] for server in call(endpoint, "GET", "/state")["servers"].values()}
    if name and name not in there:
        known = ", ".join(sorted(there)) or "there is none"
        raise EngineError(f"no server is called {name!r} ({known})")
    gone = sorted(there) if what == "servers" else [str(name)]
    for server in gone:
        call(endpoint, "DELETE", f"/servers/{server}")
    return f"gone, behind the program's back: {', '.join(gone) or 'nothing'}. Next: docs/rebuild.md"


def lose_state(home: Home, stack: str) -> str:
    """The file and its .bak; history and backups stay, as after a disk error or a wrong `rm`."""
    folder = home.state / ".pulumi" / "stacks"
    files = [path for path in folder.rglob(f"{stack}.json*") if path.is_file()]
    if not files:
        raise EngineError(f"the stack {stack} has no state here: {folder}")
    for path in files:
        path.unlink()
    return f"gone: {', '.join(str(path) for path in files)}. Next: docs/rebuild.md"


def operators_endpoint(home: Home) -> str:
    """The Hetzner stand-in's own side, beside the vendor's `/v1`."""
    if not serve.serving(home):
        raise EngineError("nothing is served here: run `make rehearse` or `make serve` first")
    return serve.environment(home)["HCLOUD_ENDPOINT"].removesuffix("/v1") + "/_rehearsal"


def call(endpoint: str, method: str, path: str) -> Any:
    request = urllib.request.Request(endpoint + path, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
    except urllib.error.URLError as cause:
        raise EngineError(f"the stand-in refused {method} {path}: {cause}") from None
    return json.loads(body) if body else None
